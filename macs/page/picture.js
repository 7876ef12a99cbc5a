// The picture: a click, or arrow keys and Enter, asks which sources drew a place; the slider shows the picture before.
const STEP = 1 / 32;
let place = { x: 0.5, y: 0.5 };
const clamp = value => Math.min(Math.max(value, 0), 1);
const mark = () => {
  const cross = element.querySelector(".cross");
  cross.hidden = false;
  cross.style.left = `${100 * place.x}%`;
  cross.style.top = `${100 * place.y}%`;
};
element.addEventListener("click", event => {
  const stage = event.target.closest(".stage");
  if (!stage) return;
  const box = stage.getBoundingClientRect();
  place = { x: clamp((event.clientX - box.left) / box.width), y: clamp((event.clientY - box.top) / box.height) };
  mark();
  trigger("select", place);
});
element.addEventListener("keydown", event => {
  if (!event.target.matches(".stage")) return;
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key in moves) {
    const [x, y] = moves[event.key];
    place = { x: clamp(place.x + STEP * x), y: clamp(place.y + STEP * y) };
    mark();
  } else if (event.key === "Enter" || event.key === " ") {
    mark();
    trigger("select", place);
  } else return;
  event.preventDefault();
});
element.addEventListener("input", event => {
  if (event.target.matches(".reveal"))
    element.querySelector(".stage").style.setProperty("--before", `${event.target.value}%`);
});
