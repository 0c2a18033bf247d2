// Two numbers of every part against one another; the parts where they disagree most are named.

class Scatter {
  /** `events`: pick(point); tell(point) → lines of the tip. */
  constructor(tip, name, events, { x, y }) {
    Object.assign(this, { events, titles: { x, y } });
    this.root = element("div", { class: "scatter drawing", "data-chart": name });
    const pointOf = ({ target }) => this.shown?.points[target.dataset?.point];
    tip.over(this.root, (event) => (pointOf(event) ? events.tell(pointOf(event)) : null));
    this.root.addEventListener("click", (event) => pointOf(event) && events.pick(pointOf(event)));
    followWidth(this);
  }

  /** `shown`: {points [{name, kind: "head" | "mlp" | "patch", x, y, chosen}], scale}. Both axes have the one scale. */
  draw(shown) {
    this.shown = shown;
    this.width = this.root.clientWidth;
    if (!this.width) return;
    const size = Math.min(this.width, 300);
    const [left, right, top, bottom] = [44, size - 18, 10, size - 34];
    const { points, scale } = shown;
    const spread = Math.max(
      ...points.map(({ x, y }) => Math.max(Math.abs(scale.strength(x)), Math.abs(scale.strength(y)))),
      0.1,
    );
    const most = Math.min(1, spread * 1.05);
    const x = (value) => left + ((scale.strength(value) / most + 1) / 2) * (right - left);
    const y = (value) => bottom - ((scale.strength(value) / most + 1) / 2) * (bottom - top);
    const drawing = drawn("svg", {
      width: this.width,
      height: size,
      viewBox: `0 0 ${this.width} ${size}`,
      role: "img",
      "aria-label": this.summary(),
    });
    for (const share of [-0.9, -0.45, 0, 0.45, 0.9]) {
      const value = Number(scale.at(share * most).toPrecision(1));
      const [tx, ty] = [x(value), y(value)];
      const kind = value === 0 ? "grid zero" : "grid";
      drawing.append(
        drawn("line", { x1: tx, x2: tx, y1: top, y2: bottom, class: kind }),
        drawn("line", { x1: left, x2: right, y1: ty, y2: ty, class: kind }),
        drawn("text", { x: tx, y: bottom + 14, class: "tick", "text-anchor": "middle" }, signed(value)),
        drawn("text", { x: left - 5, y: Math.min(ty + 4, bottom - 3), class: "tick", "text-anchor": "end" }, signed(value)),
      );
    }
    drawing.append(
      drawn("line", { x1: left, y1: bottom, x2: right, y2: top, class: "equal" }),
      drawn("text", { x: (left + right) / 2, y: size - 4, class: "tick", "text-anchor": "middle" }, this.titles.x),
      drawn(
        "text",
        {
          x: 11,
          y: (top + bottom) / 2,
          class: "tick",
          "text-anchor": "middle",
          transform: `rotate(-90 11 ${(top + bottom) / 2})`,
        },
        this.titles.y,
      ),
    );
    // What is chosen lies on top.
    const order = [...points.keys()].sort((one, other) => Boolean(points[one].chosen) - Boolean(points[other].chosen));
    for (const i of order) drawing.append(pointMark(points[i], x(points[i].x), y(points[i].y), i));
    this.nameApart(drawing, points, x, y, right, top, bottom);
    this.root.replaceChildren(drawing);
  }

  /** Up to five names, largest disagreement first, only where they have room. */
  nameApart(drawing, points, x, y, right, top, bottom) {
    const apart = ranked(points.map((point) => point.y - point.x));
    const taken = [];
    for (const i of apart.slice(0, 12)) {
      const point = points[i];
      const width = 6.4 * point.short.length + 4;
      const px = x(point.x);
      const free = (box) =>
        box.x > 46 &&
        box.x + width < this.width &&
        taken.every(
          (other) => box.x > other.x + other.width || other.x > box.x + box.width || Math.abs(box.y - other.y) > 14,
        ) &&
        !points.some(
          (other) =>
            other.kind !== "patch" &&
            Math.abs(x(other.x) - box.x - width / 2) < width / 2 + 4 &&
            Math.abs(y(other.y) - box.y - 7) < 9,
        );
      const box = [
        [px + 8, -7],
        [px - 8 - width, -7],
        [px - width / 2, -21],
        [px - width / 2, 8],
      ]
        .map(([at, up]) => ({ x: at, y: clamp(y(point.y) + up, top - 8, bottom - 14), width, height: 14 }))
        .find(free);
      if (!box) continue;
      taken.push(box);
      drawing.append(drawn("text", { x: box.x, y: box.y + 11, class: "named" }, point.short));
      if (taken.length === 5) break;
    }
  }

  summary() {
    const { points } = this.shown;
    const apart = ranked(points.map((point) => point.y - point.x)).slice(0, 3);
    const told = apart.map(
      (i) => `${points[i].name}: ${signed(points[i].x)} directly, ${COSTS} ${signed(points[i].y)}`,
    );
    return `${this.titles.x} against ${this.titles.y} of ${points.length} parts; they disagree most for ${told.join("; ")}`;
  }

  table() {
    return [["part", this.titles.x, this.titles.y], ...this.shown.points.map(({ name, x, y }) => [name, x, y])];
  }
}

/** Kinds are told apart by shape, not by colour alone. */
function pointMark({ kind, chosen }, x, y, i) {
  const common = { class: `mark ${kind}${chosen ? " chosen" : ""}`, "data-point": i };
  if (kind === "head") return drawn("circle", { cx: x, cy: y, r: 4.5, ...common });
  if (kind === "mlp") return drawn("rect", { x: x - 4, y: y - 4, width: 8, height: 8, ...common });
  return drawn("path", { d: `M${x} ${y - 3.5}l3.5 6h-7z`, ...common });
}
