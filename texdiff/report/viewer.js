"use strict";
// A mesh with an atlas as its texture, to rotate and zoom: WebGL 2, light from over the viewer's left shoulder.
const VERTEX = `#version 300 es
in vec3 position; in vec3 normal; in vec2 uv; in vec3 colour;
uniform mat3 turn; uniform float distance; uniform vec2 lens;
out vec2 at; out vec3 towards; out vec3 tint;
void main() {
  vec3 seen = turn * position;
  at = uv; towards = turn * normal; tint = colour;
  float depth = distance - seen.z;
  gl_Position = vec4(seen.xy * lens, (depth - distance) / 4. * depth, depth);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec2 at; in vec3 towards; in vec3 tint;
uniform sampler2D atlas;
out vec4 shown;
vec3 linear(vec3 c) { return mix(c / 12.92, pow((c + .055) / 1.055, vec3(2.4)), step(.04045, c)); }
vec3 srgb(vec3 c) { return mix(c * 12.92, 1.055 * pow(c, vec3(1. / 2.4)) - .055, step(.0031308, c)); }
void main() {
  vec3 n = normalize(gl_FrontFacing ? towards : -towards);
  float light = min(1., .4 + .72 * max(dot(n, vec3(-.37, .46, .81)), 0.));
  shown = vec4(srgb(texture(atlas, at).rgb * linear(tint) * light), 1.);
}`;
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));

function showMeshes(canvas, choice, meshes, say) {
  const gl = canvas.getContext("webgl2", {antialias: false, preserveDrawingBuffer: true, alpha: true});
  if (!gl) return say("This browser shows no WebGL 2, so the meshes cannot be turned here.");
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  gl.useProgram(program);
  const uniform = name => gl.getUniformLocation(program, name);
  const turn = uniform("turn"), distance = uniform("distance"), lens = uniform("lens");
  gl.enable(gl.DEPTH_TEST);
  const anisotropy = gl.getExtension("EXT_texture_filter_anisotropic");
  const texture = pixels => {
    const made = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, made);
    gl.pixelStorei(gl.UNPACK_FLIP_Y_WEBGL, true); // v points up
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.SRGB8_ALPHA8, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    gl.generateMipmap(gl.TEXTURE_2D); // in linear light, as the format says
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
    if (anisotropy) gl.texParameterf(gl.TEXTURE_2D, anisotropy.TEXTURE_MAX_ANISOTROPY_EXT, 8);
    return made;
  };
  const white = texture(new ImageData(new Uint8ClampedArray([255, 255, 255, 255]), 1, 1));
  const load = async mesh => {
    const image = new Image();
    image.src = mesh.atlas;
    await image.decode();
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, bytes(mesh.vertices), gl.STATIC_DRAW);
    for (const [name, size, type, scaled, offset] of [["position", 3, gl.SHORT, true, 0],
      ["normal", 3, gl.BYTE, true, 8], ["uv", 2, gl.FLOAT, false, 12], ["colour", 3, gl.UNSIGNED_BYTE, true, 20]]) {
      const place = gl.getAttribLocation(program, name);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, size, type, scaled, 24, offset);
    }
    const indices = bytes(mesh.indices);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, indices, gl.STATIC_DRAW);
    return {array, atlas: texture(image), worn: mesh.worn, all: indices.length / 4};
  };
  const view = {yaw: 35, pitch: 20, far: 1};
  let shown = null;
  const draw = () => {
    if (!shown) return;
    // Drawn larger than it is shown: a rasteriser's own antialiasing may leave dots along edges.
    const scale = Math.min(2 * (devicePixelRatio || 1), 3);
    canvas.width = Math.round(canvas.clientWidth * scale);
    canvas.height = Math.round(canvas.clientHeight * scale);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const y = -view.yaw * Math.PI / 180, p = view.pitch * Math.PI / 180;
    const [cy, sy, cp, sp] = [Math.cos(y), Math.sin(y), Math.cos(p), Math.sin(p)];
    gl.uniformMatrix3fv(turn, false, [cy, sp * sy, -cp * sy, 0, cp, sp, sy, -sp * cy, cp * cy]); // by columns
    const side = Math.min(canvas.width, canvas.height), field = Math.tan(15 * Math.PI / 180);
    gl.uniform1f(distance, 5.6 * view.far);
    gl.uniform2f(lens, side / canvas.width / field, side / canvas.height / field);
    gl.bindVertexArray(shown.array);
    for (const [atlas, start, end] of [[shown.atlas, 0, shown.worn], [white, shown.worn, shown.all]]) {
      gl.bindTexture(gl.TEXTURE_2D, atlas);
      if (end > start) gl.drawElements(gl.TRIANGLES, end - start, gl.UNSIGNED_INT, 4 * start);
    }
    canvas.dataset.drawn = Number(canvas.dataset.drawn || 0) + 1;
  };
  const ready = [];
  const show = async i => {
    [...choice.children].forEach((button, j) => button.setAttribute("aria-pressed", i === j));
    ready[i] ??= load(meshes[i]);
    shown = await ready[i];
    draw();
  };
  meshes.forEach((mesh, i) => { add("button", choice, mesh.prompt).onclick = () => show(i); });
  const move = (dx, dy) => {
    view.yaw -= dx;
    view.pitch = Math.max(-89, Math.min(89, view.pitch + dy));
    draw();
  };
  canvas.onpointerdown = event => canvas.setPointerCapture(event.pointerId);
  canvas.onpointermove = event => { if (event.buttons) move(event.movementX / 2, event.movementY / 2); };
  const near = factor => { view.far = Math.max(.25, Math.min(2.5, view.far * factor)); draw(); };
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    near(Math.exp(event.deltaY / 800));
  }, {passive: false});
  canvas.onkeydown = event => {
    const step = {ArrowLeft: [10, 0], ArrowRight: [-10, 0], ArrowUp: [0, 10], ArrowDown: [0, -10]}[event.key];
    if (step) move(...step);
    else if (event.key === "+" || event.key === "-") near(event.key === "+" ? .9 : 1.1);
    else return;
    event.preventDefault();
  };
  new ResizeObserver(draw).observe(canvas);
  show(0);
}
