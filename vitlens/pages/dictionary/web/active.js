// What is active in the large picture: at the patches that are selected, or anywhere in it.

const MOST_ROWS = 24;
const ACTIVE_ORDERS = [
  ["activation", "most active"],
  ["worth", "worth most to the answer"],
];

class ActiveList {
  /** `events`: pick(feature). */
  constructor(view, events) {
    Object.assign(this, { view, events, order: "activation", rows: [] });
    this.orders = segmented("which features come first", ACTIVE_ORDERS, (order) => {
      this.order = order;
      this.draw(this.at);
    });
    this.heading = element("h3", {});
    this.note = element("p", { class: "note" });
    this.list = element("ol", { class: "active" });
    this.root = element("div", { class: "active-list" }, this.heading, this.orders, this.note, this.list);
  }

  draw(at) {
    this.at = at;
    const { features, state, grid, feature } = at;
    const { tokens, picture } = state;
    const found = tokens.length ? features.at(picture, tokens) : features.ofPicture(picture);
    const hasWorth = features.worth(picture, 0) !== null;
    const order = hasWorth ? this.order : "activation";
    this.orders.hidden = !hasWorth;
    press(this.orders, order);
    this.heading.textContent = tokens.length ? `Active at ${grid.names(tokens)}` : "Active in this picture";
    this.rows = found.map(([id, value]) => ({ id, value, worth: features.worth(picture, id) }));
    if (order === "worth") this.rows.sort((one, other) => Math.abs(other.worth) - Math.abs(one.worth));
    const more = this.rows.length - MOST_ROWS;
    this.note.textContent =
      (this.rows.length ? `${count(this.rows.length, "feature")}${more > 0 ? `, the first ${MOST_ROWS} are listed` : ""}. ` : "No feature is active here. ") +
      (hasWorth && order === "worth" ? `Worth to the logit of “${cut(this.view.className(at.shown.class), 30)}”, of the whole picture (≈, by gradient).` : "") +
      (at.facts.kept_per_token ? ` The page holds the ${at.facts.kept_per_token} strongest of each token.` : "");
    const end = order === "worth" ? Math.abs(this.rows[0]?.worth ?? 1) : this.rows[0]?.value;
    this.list.replaceChildren(...this.rows.slice(0, MOST_ROWS).map((row) => this.row(row, row.id === feature, order, end)));
  }

  row({ id, value, worth }, chosen, order, end) {
    const { view } = this;
    const label = view.labels.get(id);
    const index = this.at.features.firstClass(id);
    const shown = order === "worth" ? worth : value;
    const written = order === "worth" ? signed(worth) : number(value);
    return element(
      "li",
      {},
      element(
        "button",
        {
          type: "button",
          "aria-pressed": chosen,
          "data-feature": id,
          "data-value": shown,
          "aria-label": `${featureName(id, label)}: ${written}`,
          onclick: () => this.events.pick(id),
        },
        element("strong", {}, String(id)),
        element("span", { class: label ? "label" : "class" }, label || (index === null ? "" : view.className(index))),
        element("i", { class: shown < 0 ? "minus" : "", style: `width: ${(48 * clamp(Math.abs(shown) / (end || 1), 0, 1)).toFixed(1)}px` }),
        element("output", {}, written),
      ),
    );
  }

  table() {
    return [["feature", "activation", "worth"], ...this.rows.map(({ id, value, worth }) => [id, value, worth ?? ""])];
  }
}
