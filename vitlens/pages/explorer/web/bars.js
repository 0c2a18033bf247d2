// Rows of a name with one or two signed bars on one scale, the strongest first.

class Bars {
  /** `series`: names of the bars of a row; `events`: pick(row), tell(row) → lines of the tip. */
  constructor(tip, name, series, events) {
    Object.assign(this, { series, events });
    this.root = element("div", { class: "bars drawing", "data-chart": name });
    const rowOf = ({ target }) => this.shown?.rows[target.closest?.("[data-row]")?.dataset.row];
    tip.over(this.root, (event) => (rowOf(event) ? events.tell(rowOf(event)) : null));
    this.root.addEventListener("click", (event) => rowOf(event) && events.pick(rowOf(event)));
    this.root.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      if (!rowOf(event)) return;
      event.preventDefault();
      events.pick(rowOf(event));
    });
    followWidth(this);
  }

  /** `shown`: {rows [{name, label, values [one for each series], chosen}], scale, show, axis: its unit, if it has one}. */
  draw(shown) {
    this.shown = shown;
    this.width = this.root.clientWidth;
    if (!this.width) return;
    const { rows, scale, show = scale.show, axis } = shown;
    const thick = this.series.length > 1 ? 8 : 12;
    const step = this.series.length * thick + 8;
    const longest = Math.max(...rows.map(({ values }) => show(values[0]).length));
    const [left, right] = [Math.min(168, this.width * 0.4), this.width - Math.max(48, 7 * longest + 6)];
    const [low, height] = [rows.length * step + 4, rows.length * step + (axis ? 34 : 4)];
    const both = scale.both;
    const zero = both ? (left + right) / 2 : left;
    const reach = both ? (right - left) / 2 : right - left;
    const drawing = drawn("svg", {
      width: this.width,
      height,
      viewBox: `0 0 ${this.width} ${height}`,
      role: "group",
      "aria-label": `strongest first: ${this.series.join(" and ")}`,
    });
    drawing.append(drawn("line", { x1: zero, x2: zero, y1: 0, y2: low, class: "grid zero" }));
    if (axis) {
      // Numbers under a narrow axis would touch one another.
      const inner = reach < 100 ? [] : [0.5];
      for (const share of both ? [-1, ...inner.map((at) => -at), 0, ...inner, 1] : [0, ...inner, 1]) {
        const at = zero + share * reach;
        drawing.append(
          drawn("line", { x1: at, x2: at, y1: 0, y2: low, class: share ? "grid" : "grid zero" }),
          drawn("text", { x: at, y: low + 12, class: "tick", "text-anchor": "middle" }, show(share * scale.end)),
        );
      }
      drawing.append(drawn("text", { x: zero, y: low + 27, class: "tick", "text-anchor": "middle" }, axis));
    }
    rows.forEach((row, i) => {
      const y = i * step + 4;
      const told = row.values.map((value, at) => `${this.series[at]} ${show(value)}`);
      const group = drawn("g", {
        "data-row": i,
        role: "button",
        tabindex: 0,
        class: row.chosen ? "row chosen" : "row",
        "aria-label": `${row.name}: ${told.join(", ")}`,
      });
      group.append(
        drawn("rect", { x: 0, y: y - 3, width: this.width, height: step - 1, class: "hit", rx: 3 }),
        drawn(
          "text",
          { x: left - 8, y: y + (step - 8) / 2 + 4, class: "label", "text-anchor": "end" },
          drawn("title", {}, row.name),
          cut(row.label ?? row.name, Math.floor((left - 12) / (row.chosen ? 7.3 : 6.7))),
        ),
      );
      row.values.forEach((value, at) => {
        const length = reach * scale.strength(value);
        const top = y + at * thick;
        group.append(
          drawn("rect", {
            x: Math.min(zero, zero + length),
            y: top,
            width: Math.max(1, Math.abs(length)),
            height: thick - 1.5,
            class: `bar series${at} ${!both ? "only" : value < 0 ? "minus" : "plus"}`,
          }),
        );
      });
      group.append(
        drawn(
          "text",
          { x: this.width - 2, y: y + (step - 8) / 2 + 4, class: "amount", "text-anchor": "end" },
          show(row.values[0]),
        ),
      );
      drawing.append(group);
    });
    this.root.replaceChildren(drawing);
  }

  table() {
    return [["part", ...this.series], ...this.shown.rows.map(({ name, values }) => [name, ...values])];
  }
}
