// The map of the source under the pointer.
for (const [type, on] of [["pointerover", true], ["pointerleave", false]])
  element.addEventListener(type, event => {
    const source = on ? event.target.closest("li")?.dataset.source : undefined;
    document.querySelectorAll("#picture .map").forEach(map =>
      map.classList.toggle("shown", map.dataset.source === source));
  });
