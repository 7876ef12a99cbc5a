// The part of a long recording: the slider, or a click on the outline.
const send = slider => trigger("release", { start: Number(slider.value) });
const mark = slider => {
  element.querySelector(".cut").style.setProperty("--from", slider.value / slider.dataset.seconds);
  element.querySelector("output").textContent = Number(slider.value).toFixed(1);
};
element.addEventListener("input", event => { if (event.target.matches(".from")) mark(event.target); });
element.addEventListener("change", event => { if (event.target.matches(".from")) send(event.target); });
element.addEventListener("click", event => {
  const wave = event.target.closest(".wave");
  if (!wave) return;
  const slider = element.querySelector(".from"), box = wave.getBoundingClientRect();
  const middle = (event.clientX - box.left) / box.width * slider.dataset.seconds;
  slider.value = middle - (slider.dataset.seconds - slider.max) / 2;
  mark(slider);
  send(slider);
});
