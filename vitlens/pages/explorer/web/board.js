// The board: a cell for every head and block, and one for every MLP; it shows a number each and chooses among them.

/** Where the focus stands moves with the arrow keys; the cells are one stop of the Tab key. */
class Board {
  /** `events`: pick(block, part) with part a head or "mlp"; tell(block, part) → lines of the tip. */
  constructor(tip, labels, nHeads, events) {
    Object.assign(this, { labels, nHeads, events, focus: [0, 0] });
    this.parts = [...Array(nHeads).keys(), "mlp"];
    this.root = element("div", { class: "board drawing", "data-chart": "board" });
    this.cells = [];
    tip.over(this.root, ({ target }) => {
      const cell = target.closest?.("[data-part]");
      return cell && events.tell(Number(cell.dataset.block), partOf(cell));
    });
    this.root.addEventListener("click", ({ target }) => {
      const cell = target.closest?.("[data-part]");
      if (!cell) return;
      this.focus = [this.parts.indexOf(partOf(cell)), Number(cell.dataset.block)];
      events.pick(Number(cell.dataset.block), partOf(cell));
    });
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.resized = new ResizeObserver(() => this.layOut());
    this.resized.observe(this.root);
  }

  key(event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const [row, column] = this.focus;
    if (step) {
      event.preventDefault();
      this.focus = [clamp(row + step[0], 0, this.parts.length - 1), clamp(column + step[1], 0, this.labels.length - 1)];
      const [to, at] = this.focus;
      this.events.pick(at, this.parts[to]);
      this.cellAt(...this.focus).group.focus();
    } else if (event.key === "Enter") {
      this.events.pick(column, this.parts[row]);
    }
  }

  cellAt(row, column) {
    return this.cells[row * this.labels.length + column];
  }

  /** Builds the drawing for the width that there is. */
  layOut() {
    const width = this.root.clientWidth;
    if (!width || width === this.width) return;
    this.width = width;
    const n = this.labels.length;
    const [left, top] = [46, 18];
    const cw = (width - left) / n;
    // A finger needs higher cells than a mouse.
    const lowest = width > 480 ? 15 : this.nHeads > 8 ? 22 : 28;
    const ch = clamp(cw * 0.62, lowest, this.nHeads > 8 ? 22 : 30);
    const y = (row) => top + row * ch + (row === this.nHeads ? 6 : 0);
    const height = y(this.nHeads) + ch + 2;
    this.readable = cw >= 33 && ch >= 17;
    this.drawing = drawn("svg", {
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      role: "grid",
      "aria-label": "heads and MLPs of all blocks",
    });
    this.drawing.append(drawn("text", { x: left - 6, y: 12, class: "tick", "text-anchor": "end" }, "block"));
    const every = Math.ceil(26 / cw);
    this.labels.forEach((label, i) => {
      if (i % every === 0)
        this.drawing.append(
          drawn("text", { x: left + (i + 0.5) * cw, y: 12, class: "tick", "text-anchor": "middle" }, label),
        );
    });
    const rows = Math.ceil(13 / ch);
    this.cells = this.parts.flatMap((part, row) => {
      const line = drawn("g", { role: "row" });
      if (row % rows === 0 || part === "mlp")
        line.append(
          drawn(
            "text",
            { x: left - 6, y: y(row) + ch / 2 + 4, class: "tick", "text-anchor": "end" },
            part === "mlp" ? "MLP" : `H${part}`,
          ),
        );
      const cells = this.labels.map((label, i) => {
        const [x, w, h] = [left + i * cw, cw - 1.5, ch - 1.5];
        const rect = drawn("rect", { x, y: y(row), width: w, height: h, rx: 2, class: "cell" });
        const text = drawn("text", { x: x + w / 2, y: y(row) + h / 2 + 4, "text-anchor": "middle", class: "value" });
        const group = drawn(
          "g",
          { role: "gridcell", "data-block": i, "data-part": part, tabindex: -1 },
          drawn("rect", { x, y: y(row), width: w, height: h, rx: 2, class: "ground" }),
          rect,
          text,
        );
        return { group, rect, text };
      });
      line.append(...cells.map(({ group }) => group));
      this.drawing.append(line);
      return cells;
    });
    this.root.replaceChildren(this.drawing);
    if (this.shown) this.draw(this.shown);
  }

  /** What is told of cells without a number. */
  blanks() {
    if (this.readable) return "blank cells round to 0.";
    return "+ and − mark the strong cells.";
  }

  /** `shown`: {heads [block · head], mlps [block] or null, scale, block, part}. */
  draw(shown) {
    this.shown = shown;
    if (!this.drawing) this.layOut();
    if (!this.drawing) return;
    const { heads, mlps, scale, block, part } = shown;
    if (part !== null) this.focus = [this.parts.indexOf(part), block];
    this.parts.forEach((each, row) =>
      this.labels.forEach((label, i) => {
        const { group, rect, text } = this.cellAt(row, i);
        const value = each === "mlp" ? (mlps?.[i] ?? NaN) : (heads?.[i * this.nHeads + each] ?? NaN);
        const strength = scale.strength(value);
        rect.setAttribute("class", `cell ${!scale.both ? "only" : value < 0 ? "minus" : "plus"}`);
        rect.setAttribute("fill-opacity", Math.abs(strength).toFixed(3));
        // Where there is no room for the number, a strong cell still says its sign.
        const sign = !scale.both || Math.abs(strength) < 0.35 ? "" : value < 0 ? "−" : "+";
        text.textContent = !Number.isFinite(value) ? "" : this.readable ? (scale.cell ?? short)(value, scale) : sign;
        const size = scale.both ? Math.abs(strength) : 0;
        text.setAttribute("class", `value ${size > 0.85 ? "on most" : size > 0.55 ? "on" : ""}`);
        const chosen = i === block && each === part;
        group.setAttribute("class", chosen ? "chosen" : i === block && part === null && each !== "mlp" ? "column" : "");
        group.setAttribute("aria-selected", chosen);
        group.setAttribute("tabindex", row === this.focus[0] && i === this.focus[1] ? 0 : -1);
        group.setAttribute(
          "aria-label",
          `${each === "mlp" ? `MLP of block ${label}` : `L${label}H${each}`}: ${scale.show(value)}`,
        );
      }),
    );
    // What is outlined is drawn last, so that no neighbour covers its edge.
    const { group } = this.cellAt(...this.focus);
    this.drawing.querySelector(".ring")?.remove();
    if (part === null) return;
    const box = group.querySelector(".cell");
    const at = Object.fromEntries(["x", "y", "width", "height"].map((name) => [name, Number(box.getAttribute(name))]));
    this.drawing.append(
      drawn("rect", { class: "ring", x: at.x - 1, y: at.y - 1, width: at.width + 2, height: at.height + 2, rx: 3 }),
    );
  }
}

const partOf = (cell) => (cell.dataset.part === "mlp" ? "mlp" : Number(cell.dataset.part));

/** In a cell: as many decimals as the scale needs, and nothing where they would all be 0. */
function short(value, scale) {
  if (!scale.both) return Math.abs(value) < 0.005 ? "" : `${Math.round(100 * value)}`;
  const decimals = scale.end < 1 ? 2 : Math.abs(value) >= 10 ? 0 : 1;
  const text = Math.abs(value).toFixed(decimals);
  return Number(text) === 0 ? "" : (value > 0 ? "+" : "−") + text;
}
