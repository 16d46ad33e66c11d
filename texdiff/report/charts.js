"use strict";
// Line charts as SVG. Each is redrawn when its width changes.
const SVG = "http://www.w3.org/2000/svg";
const make = (name, attributes, parent) => {
  const node = document.createElementNS(SVG, name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  return parent.appendChild(node);
};
const add = (name, parent, text, className) => {
  const node = parent.appendChild(document.createElement(name));
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
};
const number = y => Math.abs(y) >= 1000 ? Math.round(y).toLocaleString("en") : String(+y.toPrecision(4));

function ticks(low, high, count) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find(m => m * power >= raw);
  const found = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step / 1e6; t += step) found.push(+t.toPrecision(12));
  return found;
}

function drawChart(box, chart) {
  box.querySelectorAll("svg, .tip").forEach(old => old.remove());
  const width = box.clientWidth, height = chart.wide ? 300 : 190;
  const left = 52, right = 10, top = 8, bottom = 24;
  const lines = chart.curves.filter(c => c.points.length);
  const xs = lines.flatMap(c => c.points.map(p => p[0])), x0 = Math.min(...xs), x1 = Math.max(x0 + 1, ...xs);
  // A few wild steps may leave the chart rather than press all others flat.
  const ys = lines.flatMap(c => c.points.map(p => p[1])).concat(chart.base ?? []).sort((a, b) => a - b);
  const clear = lines.filter(c => !c.faint).flatMap(c => c.points.map(p => p[1])).concat(chart.base ?? []);
  let y0 = Math.min(ys[Math.floor(.01 * (ys.length - 1))], ...clear);
  let y1 = Math.max(ys[Math.ceil(.99 * (ys.length - 1))], ...clear);
  if (y1 === y0) y0 = Math.min(0, y0); // all the same: seen from 0 on
  const margin = (y1 - y0 || Math.abs(y1) || 1) * .07;
  y0 = y0 >= 0 ? Math.max(0, y0 - margin) : y0 - margin;
  y1 += margin;
  const X = x => left + (x - x0) / (x1 - x0) * (width - left - right);
  const Y = y => top + (y1 - Math.min(Math.max(y, y0), y1)) / (y1 - y0) * (height - top - bottom);
  const svg = make("svg", {viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": chart.title}, box);
  for (const t of ticks(y0, y1, chart.wide ? 6 : 4)) {
    make("line", {x1: left, x2: width - right, y1: Y(t), y2: Y(t), stroke: "var(--line)"}, svg);
    make("text", {x: left - 6, y: Y(t) + 4, "text-anchor": "end"}, svg).textContent = number(t);
  }
  for (const t of ticks(x0, x1, width / 90).filter(Number.isInteger))
    make("text", {x: X(t), y: height - 6, "text-anchor": "middle"}, svg).textContent = number(t);
  if (chart.base != null)
    make("line", {x1: left, x2: width - right, y1: Y(chart.base), y2: Y(chart.base), stroke: "var(--soft)",
      "stroke-dasharray": "6 4", class: "base"}, svg);
  for (const curve of lines) {
    const path = curve.points.map(([x, y], i) => `${i ? "L" : "M"}${X(x).toFixed(1)} ${Y(y).toFixed(1)}`).join("");
    make("path", {d: path, fill: "none", stroke: curve.colour, "stroke-width": curve.faint ? 1 : 2,
      "stroke-linejoin": "round"}, svg);
    if (curve.dots || curve.points.length === 1)
      for (const [x, y] of curve.points) make("circle", {cx: X(x), cy: Y(y), r: 3, fill: curve.colour}, svg);
  }
  const mark = make("line", {y1: top, y2: height - bottom, stroke: "var(--soft)", visibility: "hidden"}, svg);
  const tip = add("div", box, "", "tip");
  tip.hidden = true;
  svg.onpointermove = event => {
    const at = x0 + (event.offsetX - left) / (width - left - right) * (x1 - x0);
    const near = c => c.points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a);
    const x = near(lines[lines.length - 1])[0];
    tip.replaceChildren();
    add("b", tip, `step ${number(x)}`);
    for (const curve of lines) add("div", tip, `${curve.name} ${number(near(curve)[1])}`);
    if (chart.base != null) add("div", tip, `base ${number(chart.base)}`);
    tip.hidden = false;
    tip.style.top = `${svg.offsetTop + top}px`;
    tip.style.left = `${Math.max(0, Math.min(X(x) + 12, width - tip.offsetWidth))}px`;
    mark.setAttribute("x1", X(x));
    mark.setAttribute("x2", X(x));
    mark.setAttribute("visibility", "visible");
  };
  svg.onpointerleave = () => { tip.hidden = true; mark.setAttribute("visibility", "hidden"); };
}

function showCharts(place, charts) {
  const boxes = charts.map(chart => {
    let next = 0;
    for (const curve of chart.curves) curve.colour = curve.faint ? "var(--faint)" : `var(--c${next++ % 6})`;
    const box = add("div", place, undefined, chart.wide ? "chart wide" : "chart");
    add("h3", box, chart.title);
    if (chart.note) add("p", box, chart.note, "soft");
    if (chart.curves.length > 1 || chart.base != null) {
      const legend = add("div", box, undefined, "legend");
      const entry = (name, style) => {
        const span = add("span", legend);
        add("i", span).style.cssText = style;
        span.append(name);
      };
      for (const curve of chart.curves) entry(curve.name, `border-color:${curve.colour}`);
      if (chart.base != null) entry(`base ${number(chart.base)}`, "border-top-style:dashed;border-color:var(--soft)");
    }
    return box;
  });
  const draw = () => boxes.forEach((box, i) => drawChart(box, charts[i]));
  let width = 0;
  new ResizeObserver(() => { if (place.clientWidth !== width) { width = place.clientWidth; draw(); } }).observe(place);
  width = place.clientWidth;
  draw();
}
