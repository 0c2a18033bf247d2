// The large picture: a map over it, its grid and numbers at the edges, what is selected, and what the pointer selects.

/** What knows the grid: where a patch is, and what it is called. */
class Grid {
  constructor([rows, columns], prefix) {
    Object.assign(this, { rows, columns, prefix, nPrefix: prefix.length, nTokens: prefix.length + rows * columns });
  }

  place(token) {
    const patch = token - this.nPrefix;
    return [Math.floor(patch / this.columns), patch % this.columns];
  }

  token(row, column) {
    return this.nPrefix + row * this.columns + column;
  }

  name(token) {
    if (token >= this.nPrefix) return `patch (${this.place(token).join(", ")})`;
    const label = this.prefix[token];
    return label.startsWith("register") ? label : `${label} token`;
  }

  /** Of a set. */
  names(tokens) {
    if (tokens.length === this.rows * this.columns && tokens[0] === this.nPrefix) return "all patches";
    if (tokens.length === 1) return (tokens[0] < this.nPrefix ? "the " : "") + this.name(tokens[0]);
    return tokens.every((token) => token >= this.nPrefix) ? `${tokens.length} patches` : `${tokens.length} tokens`;
  }

  /** All patches of the box between two. */
  box(one, other) {
    const [[r0, c0], [r1, c1]] = [this.place(one), this.place(other)];
    const found = [];
    for (let row = Math.min(r0, r1); row <= Math.max(r0, r1); row++)
      for (let column = Math.min(c0, c1); column <= Math.max(c0, c1); column++) found.push(this.token(row, column));
    return found;
  }
}

const PINK = "#ff2fa0";

/** The bar of a scale with its numbers. */
function ramp(scale) {
  return element(
    "div",
    { class: "ramp", "data-end": scale.end },
    element("div", { class: "bar", style: `background-image: ${scale.gradient()}` }),
    element(
      "div",
      { class: "ticks" },
      ...scale.ticks().map(([place, text]) => element("span", { style: `left: ${100 * place}%` }, text)),
    ),
  );
}

class Stage {
  /** `events`: select(tokens, add) and tell(token) → lines of the tip. */
  constructor(grid, tip, events, label) {
    Object.assign(this, { grid, events, shown: null, dragged: null, cursor: grid.nPrefix, several: false });
    this.chips = grid.prefix.map((name, token) =>
      element(
        "button",
        {
          type: "button",
          class: "chip",
          "data-token": token,
          onclick: (event) => events.select([token], this.adds(event)),
        },
        element("i", { class: "swatch" }),
        grid.name(token),
        element("output", {}),
      ),
    );
    this.image = element("img", { alt: "", draggable: "false" });
    this.map = element("canvas", { class: "map", width: grid.columns, height: grid.rows });
    this.lines = element("canvas", { class: "lines" });
    this.frame = element(
      "div",
      { class: "frame", tabindex: 0, role: "application", "aria-label": label },
      this.image,
      this.map,
      this.lines,
    );
    const numbers = (n, name) =>
      element(
        "div",
        { class: name, "aria-hidden": "true" },
        ...Array.from({ length: n }, (_, i) => element("span", {}, `${i}`)),
      );
    this.columns = numbers(grid.columns, "ticks columns");
    this.rows = numbers(grid.rows, "ticks rows");
    this.heading = element("div", { class: "stage-name" });
    this.absent = element("p", { class: "absent", hidden: true });
    this.root = element(
      "div",
      { class: "stage" },
      this.heading,
      element("div", { class: "chips" }, ...this.chips),
      element("div", { class: "framed" }, this.columns, this.rows, this.frame, this.absent),
    );
    this.listen(tip);
    this.resized = new ResizeObserver(() => this.drawLines());
    this.resized.observe(this.frame);
  }

  adds(event) {
    return event.shiftKey || this.several;
  }

  listen(tip) {
    const { frame, events, grid } = this;
    frame.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.pointerType === "touch") return;
      this.dragged = { from: this.tokenAt(event), to: this.tokenAt(event), add: this.adds(event) };
      frame.setPointerCapture(event.pointerId);
    });
    frame.addEventListener("pointermove", (event) => {
      if (!this.dragged) return;
      this.dragged.to = this.tokenAt(event);
      this.drawLines();
    });
    frame.addEventListener("pointerup", () => {
      if (!this.dragged) return;
      const { from, to, add } = this.dragged;
      this.dragged = null;
      this.cursor = to;
      events.select(grid.box(from, to), add);
    });
    frame.addEventListener("pointercancel", () => {
      this.dragged = null;
      this.drawLines();
    });
    // A finger scrolls when it moves: it selects by a tap alone.
    frame.addEventListener("click", (event) => {
      if (event.pointerType === "touch") events.select([this.tokenAt(event)], this.adds(event));
    });
    tip.over(frame, (event) => (this.dragged ? null : events.tell(this.tokenAt(event))));
    for (const chip of this.chips) tip.over(chip, () => events.tell(Number(chip.dataset.token)));
  }

  tokenAt(event) {
    const box = this.frame.getBoundingClientRect();
    const place = (part, size, n) => clamp(Math.floor((part / size) * n), 0, n - 1);
    const row = place(event.clientY - box.top, box.height, this.grid.rows);
    return this.grid.token(row, place(event.clientX - box.left, box.width, this.grid.columns));
  }

  /** The arrow keys move a cursor, with Shift they add what it goes over. */
  move(down, right, add) {
    const [row, column] = this.grid.place(this.cursor);
    // Where the cursor is not to be seen, it comes into sight before it moves.
    if (this.shown.selected.includes(this.cursor))
      this.cursor = this.grid.token(
        clamp(row + down, 0, this.grid.rows - 1),
        clamp(column + right, 0, this.grid.columns - 1),
      );
    this.events.select([this.cursor], add, true);
  }

  setPicture({ uri, width, height, name }) {
    if (this.image.getAttribute("src") !== uri) this.image.src = uri;
    this.image.alt = `the picture ${name}, as the model sees it`;
    this.size = [width, height];
    this.root.style.setProperty("--shape", `${width} / ${height}`);
    this.root.style.setProperty("--ratio", width / height);
  }

  /**
   * `values` per token (NaN: none), or null with `absent`, the reason; `shown` is {values, scale, opacity, threshold,
   * outliers, selected, absent}.
   */
  draw(shown) {
    this.shown = shown;
    const { values, scale, opacity, threshold, selected } = shown;
    this.absent.hidden = Boolean(values);
    this.absent.textContent = shown.absent ?? "";
    if (values)
      paint(this.map, values.subarray(this.grid.nPrefix), scale, {
        opacity: opacity / 100,
        threshold: threshold / 100,
      });
    else this.map.getContext("2d").clearRect(0, 0, this.map.width, this.map.height);
    this.frame.dataset.signed = Boolean(values) && scale.both;
    this.frame.dataset.map = Boolean(values);
    this.chips.forEach((chip, token) => {
      const value = values ? values[token] : NaN;
      chip.lastChild.value = Number.isFinite(value) ? scale.show(value) : "";
      chip.firstChild.style.background = values ? scale.css(value) : "none";
      chip.setAttribute("aria-pressed", selected.includes(token));
    });
    this.drawLines();
  }

  drawLines() {
    if (!this.shown) return;
    const { clientWidth: width, clientHeight: height } = this.frame;
    if (!width || !height) return;
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.lines.width !== w || this.lines.height !== h) Object.assign(this.lines, { width: w, height: h });
    const brush = this.lines.getContext("2d");
    brush.setTransform(ratio, 0, 0, ratio, 0, 0);
    brush.clearRect(0, 0, width, height);
    this.drawOver(brush, width, height);
    this.thinTicks(width, height);
  }

  /** Grid, artefacts and selection, on any canvas: the page's and that of an export. */
  drawOver(brush, width, height) {
    const { rows, columns, nPrefix } = this.grid;
    const [cw, ch] = [width / columns, height / rows];
    brush.lineWidth = 1;
    brush.strokeStyle = "rgba(255,255,255,0.22)";
    brush.beginPath();
    for (let i = 1; i < columns; i++) brush.rect(Math.round(i * cw), 0, 0, height);
    for (let i = 1; i < rows; i++) brush.rect(0, Math.round(i * ch), width, 0);
    brush.stroke();
    const { outliers, selected } = this.shown;
    outliers.forEach((is, patch) => {
      if (is) hatch(brush, (patch % columns) * cw, Math.floor(patch / columns) * ch, cw, ch);
    });
    const set = new Set(selected.filter((token) => token >= nPrefix));
    if (this.dragged) {
      if (!this.dragged.add) set.clear();
      for (const token of this.grid.box(this.dragged.from, this.dragged.to)) set.add(token);
    }
    this.outline(brush, set, cw, ch);
  }

  /** Only the edges between what is selected and what is not. */
  outline(brush, set, cw, ch) {
    const { rows, columns, nPrefix } = this.grid;
    brush.beginPath();
    for (const token of set) {
      const [row, column] = this.grid.place(token);
      const inside = (r, c) => r >= 0 && c >= 0 && r < rows && c < columns && set.has(nPrefix + r * columns + c);
      const [x, y] = [column * cw, row * ch];
      const edge = (dr, dc, x0, y0, x1, y1) => {
        if (inside(row + dr, column + dc)) return;
        brush.moveTo(x0, y0);
        brush.lineTo(x1, y1);
      };
      edge(-1, 0, x, y, x + cw, y);
      edge(1, 0, x, y + ch, x + cw, y + ch);
      edge(0, -1, x, y, x, y + ch);
      edge(0, 1, x + cw, y, x + cw, y + ch);
    }
    brush.lineCap = "square";
    for (const [colour, size] of [
      ["rgba(0,0,0,0.6)", 5],
      [PINK, 2.5],
    ]) {
      Object.assign(brush, { strokeStyle: colour, lineWidth: size });
      brush.stroke();
    }
  }

  /** Where numbers would touch, only every second, fifth or tenth is shown. */
  thinTicks(width, height) {
    for (const [ticks, room] of [
      [this.columns, width / this.grid.columns],
      [this.rows, height / this.grid.rows],
    ]) {
      const every = [1, 2, 5, 10].find((step) => step * room >= 17) ?? 20;
      [...ticks.children].forEach((tick, i) => (tick.style.visibility = i % every ? "hidden" : "visible"));
    }
  }

  lift(up) {
    this.frame.classList.toggle("lifted", up);
  }
}

function hatch(brush, x, y, width, height) {
  brush.save();
  brush.beginPath();
  brush.rect(x, y, width, height);
  brush.clip();
  brush.beginPath();
  const step = Math.max(4, width / 5);
  for (let at = -height; at < width; at += step) {
    brush.moveTo(x + at, y + height);
    brush.lineTo(x + at + height, y);
  }
  for (const [colour, size] of [
    ["rgba(0,0,0,0.55)", 2],
    ["rgba(255,255,255,0.9)", 1],
  ]) {
    Object.assign(brush, { strokeStyle: colour, lineWidth: size });
    brush.stroke();
  }
  brush.restore();
}
