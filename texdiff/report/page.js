"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
if (data.charts.length) showCharts(document.getElementById("charts"), data.charts);

// Samples over time: every image is in the page, the slider only changes which one is shown.
const steps = data.samples.steps, slider = document.getElementById("step");
if (steps.length) {
  const place = document.getElementById("samples"), shown = [];
  data.samples.prompts.forEach((prompt, i) => {
    if (!steps.some(step => step.images[i].some(Boolean))) return;
    const figure = add("figure", place), pair = add("div", figure, undefined, "pair");
    ["atlas, its void dimmed", "on the mesh"].forEach((kind, j) => {
      if (!steps.some(step => step.images[i][j])) return;
      const image = add("img", pair);
      image.alt = `${prompt}: ${kind}`;
      shown.push(step => {
        const uri = step.images[i][j];
        image.style.visibility = uri ? "visible" : "hidden";
        if (uri) image.src = uri;
      });
    });
    add("figcaption", figure, prompt);
  });
  slider.max = steps.length - 1;
  slider.value = steps.length - 1;
  slider.oninput = () => {
    const step = steps[slider.value];
    document.getElementById("which").textContent = step.step ? `step ${step.step}` : "the base itself";
    slider.setAttribute("aria-valuetext", `step ${step.step}`);
    shown.forEach(show => show(step));
  };
  slider.oninput();
}
if (data.meshes.length)
  showMeshes(document.getElementById("viewer"), document.getElementById("choice"), data.meshes,
    text => { document.getElementById("viewer").replaceWith(text); });
