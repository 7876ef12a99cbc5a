// Rows of sources: levels, mute and solo go to Python as one message when a slider is let go or a button pressed.
const rows = () => [...element.querySelectorAll(".source[data-source]")];
const send = () => trigger("release", {
  levels: rows().map(row => Number(row.querySelector(".level").value)),
  muted: rows().map(row => row.querySelector(".mute").getAttribute("aria-pressed") === "true"),
  solo: rows().map(row => row.querySelector(".solo").getAttribute("aria-pressed") === "true"),
});
const show = source => document.querySelectorAll("#picture .map").forEach(map =>
  map.classList.toggle("shown", map.dataset.source === source));

element.addEventListener("input", event => {
  if (event.target.matches(".level"))
    event.target.nextElementSibling.textContent = Number(event.target.value).toFixed(2);
});
element.addEventListener("change", event => { if (event.target.matches(".level")) send(); });
element.addEventListener("click", event => {
  const button = event.target.closest(".mute, .solo");
  if (!button) return;
  button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
  send();
});
// the map of the row under the pointer, or with the focus
for (const [type, on] of [["pointerover", true], ["focusin", true], ["pointerleave", false], ["focusout", false]])
  element.addEventListener(type, event => show(on ? event.target.closest(".source")?.dataset.source : undefined));
// one player at a time
element.addEventListener("play", event => element.querySelectorAll("audio").forEach(audio => {
  if (audio !== event.target) audio.pause();
}), true);
