// Draws every chart of a page where it stands, in the ink of the ground that it stands on.
(() => {
  "use strict";
  const inks = JSON.parse(document.getElementById("dualrs-inks").textContent);

  const ground = (place) => {
    for (let node = place; node; node = node.parentElement) {
      const parts = (getComputedStyle(node).backgroundColor.match(/[\d.]+/g) || []).map(Number);
      if (parts.length >= 3 && parts[3] !== 0)
        return 0.299 * parts[0] + 0.587 * parts[1] + 0.114 * parts[2] < 128 ? "dark" : "light";
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  };

  // Views that are wider than the page become as wide as it is, less `beside` for axes and legends.
  const fitted = (spec, room, beside) => {
    const part = Array.isArray(spec) ? [...spec] : { ...spec };
    for (const [key, value] of Object.entries(part)) {
      if ((key === "width" || (key === "height" && spec.width === value)) && typeof value === "number" && value > 150)
        part[key] = Math.min(value, room - beside); // a square stays one
      else if (key === "columns" && typeof value === "number" && room < 450) part[key] = 1;
      else if (value && typeof value === "object" && key !== "datasets" && key !== "values" && key !== "data")
        part[key] = fitted(value, room, beside);
    }
    return part;
  };

  const draw = async (figure) => {
    figure.dataset.drawn = "0";
    const place = figure.querySelector(".dualrs-view");
    const told = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
    const options = { mode: "vega-lite", renderer: "svg", actions: told.actions, downloadFileName: told.name };
    const ink = inks[ground(place)];
    const spec = fitted(told.spec, Math.max(figure.clientWidth, 260), 75);
    try {
      const drawn = await window.vegaEmbed(place, spec, { ...options, config: ink });
      figure.view?.finalize();
      figure.view = drawn.view;
      const said = figure.querySelector("[aria-live]");
      try {
        drawn.view.addSignalListener("readout", (_, text) => { said.textContent = text; });
      } catch { /* a chart that says nothing of its own */ }
    } catch (error) {
      place.insertAdjacentText("beforeend", `This chart could not be drawn: ${error.message}`);
    }
    figure.dataset.drawn = "1";
  };

  const all = (which) => document.querySelectorAll(`figure.dualrs-chart${which}`).forEach(draw);
  const again = () => all("");
  const first = () => all(":not([data-drawn])");
  let wide = innerWidth;
  let waiting;
  addEventListener("resize", () => {
    if (innerWidth === wide) return; // a phone's bars come and go
    wide = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(again, 200);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  first();
})();
