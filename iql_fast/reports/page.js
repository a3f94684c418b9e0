"use strict";
(() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const shown = (value) => String(Number(value.toPrecision(5)));
  const COLOURS = 6; // that the style sheet has: --c0 to --c5
  const plots = [];

  // What a button says is on: a curve is drawn where its run and its layer both are.
  const off = { group: new Set(), layer: new Set() };
  const keys = document.querySelectorAll("button.key");

  function apply({ root }) {
    for (const renderer of root.renderers) {
      const [group, layer] = renderer.tags;
      renderer.visible = !off.group.has(String(group)) && !off.layer.has(layer);
    }
  }

  for (const key of keys) {
    const kind = key.dataset.group === undefined ? "layer" : "group";
    const name = key.dataset[kind];
    if (key.getAttribute("aria-pressed") === "false") off[kind].add(name);
    key.addEventListener("click", () => {
      const on = key.getAttribute("aria-pressed") !== "true";
      key.setAttribute("aria-pressed", String(on));
      off[kind][on ? "delete" : "add"](name);
      plots.forEach(apply);
    });
  }

  // A canvas knows no style sheet: its colours follow the page's.
  function paint({ root }) {
    const [ink, line] = [css("--muted"), css("--line")];
    for (const axis of [...root.below, ...root.left]) {
      axis.setv({
        axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: line,
        major_tick_line_color: line, minor_tick_line_color: null,
      });
    }
    for (const part of root.center) {
      if ("grid_line_color" in part) part.grid_line_color = line;
    }
    for (const { glyph, tags: [group, layer] } of root.renderers) {
      if (layer === "ours") continue;
      const colour = { value: css(`--c${group % COLOURS}`) };
      for (const name of ["line_color", "fill_color"]) {
        if (name in glyph) glyph[name] = colour;
      }
    }
  }

  // The pointer and the arrow keys go from step to step; what the curves are there is told in words.
  function walk(plot) {
    const lines = () => plot.root.renderers.filter(
      (r) => r.tags[1] === "mean" && r.name && r.visible);
    const column = (line, name) => Array.from(line.data_source.get_column(name));
    const all = () => [...new Set(lines().flatMap((line) => column(line, "step")))]
      .sort((a, b) => a - b);
    let place = -1;

    function tell(step) {
      const said = lines().flatMap((line) => {
        const at = column(line, "step").indexOf(step);
        if (at < 0) return [];
        const [mean, low, high] = ["mean", "low", "high"].map((name) => column(line, name)[at]);
        const range = low === high ? "" : ` (${shown(low)} to ${shown(high)})`;
        return [`${line.name} ${shown(mean)}${range}`];
      });
      plot.readout.textContent = `step ${step.toLocaleString("en")}: ${said.join("; ")}`;
      plot.mark.setv({ location: step, visible: true });
    }

    plot.element.addEventListener("pointermove", (event) => {
      const steps = all();
      if (steps.length === 0) return;
      const left = plot.view.canvas_view.el.getBoundingClientRect().left;
      const x = plot.view.frame.x_scale.invert(event.clientX - left);
      const nearest = steps.reduce((a, b) => (Math.abs(b - x) < Math.abs(a - x) ? b : a));
      place = steps.indexOf(nearest);
      tell(nearest);
    });
    plot.element.addEventListener("pointerleave", () => { plot.mark.visible = false; });
    plot.element.addEventListener("keydown", (event) => {
      const steps = all();
      const to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: steps.length - 1,
        PageDown: place + 10, PageUp: place - 10 }[event.key];
      if (to === undefined || steps.length === 0) return;
      event.preventDefault();
      place = Math.min(Math.max(to, 0), steps.length - 1);
      tell(steps[place]);
    });
    plot.element.addEventListener("blur", () => { plot.mark.visible = false; });
  }

  // One figure after the other, so that the page answers in between.
  async function draw() {
    const items = JSON.parse(document.getElementById("figures").textContent);
    for (const [number, { item }] of items.entries()) {
      const element = document.getElementById(`plot-${number}`);
      const [view] = await Bokeh.embed.embed_item(item, element.id);
      const root = view.model;
      const mark = root.center.find((part) => part.name === "place");
      const readout = element.parentElement.querySelector(".readout");
      const plot = { element, view, root, mark, readout };
      element.plot = plot;
      plots.push(plot);
      paint(plot);
      apply(plot);
      walk(plot);
      element.dataset.drawn = "yes";
      await new Promise((next) => setTimeout(next));
    }
    document.documentElement.dataset.drawn = "yes";
  }

  for (const media of ["(prefers-color-scheme: dark)", "print"]) {
    matchMedia(media).addEventListener("change", () => plots.forEach(paint));
  }

  for (const button of document.querySelectorAll("button.play")) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      button.textContent = on ? "Stop" : "Play";
      button.parentElement.querySelector(".film").hidden = !on;
      button.parentElement.querySelector(".still").hidden = on;
    });
  }

  // A click on a heading sorts by its column, a second one the other way round.
  for (const button of document.querySelectorAll("button.sort")) {
    button.addEventListener("click", () => {
      const heading = button.closest("th");
      const body = heading.closest("table").tBodies[0];
      const place = heading.cellIndex;
      const up = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const number = button.dataset.kind === "number";
      const value = (row) => {
        const cell = row.cells[place];
        if (!number) return cell.textContent.trim();
        return cell.dataset.value ? Number(cell.dataset.value) : null;
      };
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === null || y === null) return (x === null) - (y === null); // none: always last
        return (up ? 1 : -1) * (number ? x - y : x.localeCompare(y));
      };
      body.append(...[...body.rows].sort(order));
    });
  }

  if (document.getElementById("figures")) draw();
})();
