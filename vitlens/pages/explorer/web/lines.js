// Curves over steps: names at the ends of the lines, one tip for a step, a click chooses the step.

/** Axes: `place(value)` from 0 (bottom) to 1 (top), and ticks as [value, text]. */
const AXES = {
  share: () => ({ place: (value) => clamp(value, 0, 1), ticks: [0, 0.25, 0.5, 0.75, 1].map((p) => [p, percent(p)]) }),
  /** Small and large probabilities alike have room. */
  odds: () => {
    const odds = (p) => Math.log(clamp(p, 0.0005, 0.9995) / (1 - clamp(p, 0.0005, 0.9995)));
    const end = odds(0.9995);
    return {
      place: (value) => (odds(value) + end) / (2 * end),
      ticks: [0.001, 0.01, 0.1, 0.5, 0.9, 0.99].map((p) => [p, percent(p)]),
    };
  },
  rank: (n) => {
    const end = Math.log(Math.max(2, n));
    return {
      place: (value) => 1 - Math.log(clamp(value, 1, n)) / end,
      ticks: [1, 3, 10, 30, 100, 300, 1000, 10000].filter((rank) => rank <= n).map((rank) => [rank, `${rank}.`]),
    };
  },
  linear: (values) => {
    const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
    const [bottom, top] = [low < 0 ? -niceEnd(-low) : 0, high > 0 ? niceEnd(high) : 0];
    const size = top - bottom || 1;
    const step = niceEnd(size / 4);
    const ticks = [];
    for (let at = Math.ceil(bottom / step) * step; at <= top + step / 100; at += step) ticks.push([at, signed(at)]);
    return { place: (value) => clamp((value - bottom) / size, 0, 1), ticks };
  },
};

/** Of a difference both names are seen, each cut by itself. */
function bothNames(name, length) {
  const [one, other] = name.replace(/[“”]/g, "").split(" − ");
  if (!other || name.length <= length) return cut(name, length);
  return `${cut(one, Math.floor((length - 3) / 2))} − ${cut(other, Math.floor((length - 3) / 2))}`;
}

class Lines {
  /** `pick(step)` where steps can be chosen. */
  constructor(tip, name, { pick = null, height = 170, xTitle = "", ends = true } = {}) {
    Object.assign(this, { name, pick, height, xTitle, ends });
    this.root = element("div", { class: "lines drawing", "data-chart": name });
    if (pick) {
      this.root.addEventListener("click", (event) => {
        const step = this.stepAt(event);
        if (step !== null) pick(step);
      });
    }
    tip.over(this.root, (event) => this.tell(event));
    followWidth(this);
  }

  stepAt(event) {
    if (!this.shown) return null;
    const x = event.clientX - this.root.getBoundingClientRect().left;
    const n = this.shown.steps.length;
    const at = Math.round(((x - this.left) / (this.right - this.left)) * (n - 1));
    return x < this.left - 12 || x > this.right + 12 ? null : clamp(at, 0, n - 1);
  }

  tell(event) {
    const step = this.stepAt(event);
    if (step === null) return null;
    const { steps, curves, show, stepName } = this.shown;
    const named = curves.filter(({ name, quiet }) => name && !quiet);
    return [
      stepName(steps[step]),
      ...named
        .toSorted((one, other) => other.values[step] - one.values[step])
        .map(({ name, values }) => `${cut(name, 34)}: ${show(values[step])}`),
    ];
  }

  /**
   * `shown`: {steps, stepName(step), tick(step) → text, curves [{name, values, kind, colour}], axis, show(value), chosen}.
   * Kinds are "main", "other", "dashed" and "faint".
   */
  draw(shown) {
    this.shown = shown;
    this.width = this.root.clientWidth;
    if (!this.width) return;
    const { steps, curves, axis, chosen } = shown;
    const { width, height } = this;
    const room = !this.ends ? 30 : width < 420 ? 150 : width < 560 ? 170 : 210;
    const rows = this.ends ? 0 : this.placedAbove(curves, 8, width).rows;
    const [left, right, bottom] = [48, width - room, height - (this.xTitle ? 34 : 20)];
    const top = this.ends ? 30 : 10 + 16 * rows;
    Object.assign(this, { left, right });
    const x = (i) => left + (steps.length > 1 ? (i / (steps.length - 1)) * (right - left) : 0);
    const y = (value) => bottom - axis.place(value) * (bottom - top);
    const drawing = drawn("svg", {
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": this.summary(),
    });
    let last = Infinity;
    for (const [value, text] of axis.ticks) {
      const at = y(value);
      drawing.append(drawn("line", { x1: left, x2: right, y1: at, y2: at, class: "grid" }));
      if (Math.abs(last - at) < 13) continue;
      last = at;
      drawing.append(drawn("text", { x: left - 6, y: at + 4, class: "tick", "text-anchor": "end" }, text));
    }
    if (chosen !== undefined && chosen !== null)
      drawing.append(
        drawn("line", { x1: x(chosen), x2: x(chosen), y1: top, y2: bottom, class: "chosen-step" }),
        drawn(
          "text",
          { x: x(chosen), y: top - 4, class: "tick", "text-anchor": chosen * 2 > steps.length ? "end" : "start" },
          `chosen: ${this.xTitle} ${shown.tick(steps[chosen])}`,
        ),
      );
    if (shown.yTitle) drawing.append(drawn("text", { x: 4, y: 10, class: "tick" }, shown.yTitle));
    let before = -Infinity;
    steps.forEach((step, i) => {
      const text = shown.tick(step);
      if (!text || x(i) - before < Math.max(34, 6 * text.length + 6)) return;
      before = x(i);
      drawing.append(
        drawn(
          "text",
          {
            x: Math.min(x(i), width - 3.2 * text.length),
            y: bottom + 15,
            class: "tick",
            "text-anchor": "middle",
          },
          text,
        ),
      );
    });
    if (this.xTitle)
      drawing.append(
        drawn("text", { x: (left + right) / 2, y: height - 3, class: "tick", "text-anchor": "middle" }, this.xTitle),
      );
    const order = ["faint", "other", "dashed", "main"];
    for (const curve of curves.toSorted((one, other) => order.indexOf(one.kind) - order.indexOf(other.kind))) {
      const points = [...curve.values]
        .map((value, i) => [x(i), y(value), value])
        .filter(([, , value]) => Number.isFinite(value));
      const path = points.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
      drawing.append(
        drawn("path", {
          d: path,
          class: `curve ${curve.kind}`,
          stroke: curve.colour ?? null,
          "data-name": curve.name ?? null,
        }),
      );
      if (curve.kind === "main")
        for (const [px, py] of points) drawing.append(drawn("circle", { cx: px, cy: py, r: 2.5, fill: curve.colour }));
    }
    if (this.ends) this.nameEnds(drawing, curves, y, right, top, bottom, room);
    else this.nameAbove(drawing, curves, 8);
    this.root.replaceChildren(drawing);
  }

  /** Names stand at the ends of their lines, moved apart where they would touch. */
  nameEnds(drawing, curves, y, right, top, bottom, room) {
    const gap = 14;
    const ends = curves
      .filter(({ name }) => name)
      .map((curve) => ({ curve, value: curve.values.at(-1), at: clamp(y(curve.values.at(-1)) + 4, top + 6, bottom) }))
      .toSorted((one, other) => one.at - other.at || other.value - one.value);
    ends.forEach((end, i) => (end.at = Math.max(end.at, i ? ends[i - 1].at + gap : top + 6)));
    const over = (ends.at(-1)?.at ?? 0) - (bottom + 4);
    if (over > 0) {
      ends.at(-1).at -= over;
      for (let i = ends.length - 2; i >= 0; i--) ends[i].at = Math.min(ends[i].at, ends[i + 1].at - gap);
    }
    for (const { curve, value, at } of ends) {
      const text = `${bothNames(curve.name, Math.floor((room - 60) / (curve.kind === "main" ? 7.2 : 6.5)))} ${this.shown.show(value)}`;
      drawing.append(
        drawn("line", {
          x1: right,
          y1: y(value),
          x2: right + 8,
          y2: at - 4,
          class: `lead ${curve.kind}`,
          stroke: curve.colour ?? null,
        }),
        drawn(
          "text",
          { x: right + 11, y: at, class: `end ${curve.kind}`, fill: curve.colour ?? null },
          drawn("title", {}, curve.name),
          text,
        ),
      );
    }
  }

  /** Where all lines end in one place, names stand above them. */
  nameAbove(drawing, curves, left) {
    for (const { curve, text, x, y } of this.placedAbove(curves, left, this.width).placed)
      drawing.append(
        drawn("path", { d: `M${x} ${y - 4}h20`, class: `curve ${curve.kind}`, stroke: curve.colour ?? null }),
        drawn("text", { x: x + 25, y, class: `end ${curve.kind}` }, text),
      );
  }

  /** Where each name stands, in as many rows as they need. */
  placedAbove(curves, left, width) {
    let [at, row] = [left, 0];
    const placed = curves
      .filter(({ name }) => name)
      .map((curve) => {
        const text = cut(curve.name, 24);
        const size = 36 + 7 * text.length;
        if (at > left && at + size > width) [at, row] = [left, row + 1];
        const place = { curve, text, x: at, y: 12 + 16 * row };
        at += size;
        return place;
      });
    return { placed, rows: row + 1 };
  }

  summary() {
    const { curves, steps, show, stepName } = this.shown;
    const end = (curve) => `${curve.name}: from ${show(curve.values[0])} to ${show(curve.values.at(-1))}`;
    const named = curves.filter(({ name }) => name);
    return `curves from ${stepName(steps[0])} to ${stepName(steps.at(-1))}. ${named.map(end).join("; ")}`;
  }

  table() {
    const { steps, stepName, curves } = this.shown;
    const named = curves.map(({ name }, i) => name ?? `order ${i}`);
    return [["step", ...named], ...steps.map((step, i) => [stepName(step), ...curves.map(({ values }) => values[i])])];
  }
}
