// The list of all features: searched, sorted, and only the rows in sight are drawn.

const ROW_HEIGHT = 36;
/** [name, heading, whether large comes first, what it sorts by]. */
const COLUMNS = [
  ["number", "feature", false, (list, feature) => feature],
  ["name", "label or class", false, (list, feature) => list.wordOf(feature)],
  ["density", "density", true, (list, feature) => list.features.density[feature]],
  ["largest", "largest", true, (list, feature) => list.features.largest[feature]],
  // What has none comes last, whichever way.
  ["locality", "local", true, (list, feature) => list.features.locality(feature)],
];
const WHICH = [
  ["active", "active ones"],
  ["picture", "active in this picture"],
  ["labelled", "with a label"],
  ["all", "all"],
];

class FeatureList {
  /** `events`: pick(feature); `classOf(index)` names a class. */
  constructor(features, labels, classOf, tip, events) {
    Object.assign(this, { features, labels, classOf, events, chosen: null, picture: 0 });
    this.sort = { by: "largest", down: true };
    this.order = [];
    this.input = element("input", {
      type: "search",
      placeholder: "number, label or class",
      "aria-label": "search features by number, label or class",
      autocomplete: "off",
      spellcheck: "false",
      oninput: () => this.refresh(),
      onkeydown: (event) => this.key(event),
    });
    this.which = element(
      "select",
      { name: "which", "aria-label": "which features are listed", onchange: () => this.refresh() },
      ...WHICH.filter(([value]) => value !== "picture" || features.facts.pictures.length).map(([value, text]) => element("option", { value }, text)),
    );
    this.told = element("output", { class: "note" });
    this.heads = COLUMNS.map(([name, text, down]) =>
      button(text, () => this.sortBy(name, down), { "data-sort": name, title: `sort by ${text}` }),
    );
    this.rows = element("div", { class: "rows" });
    this.frame = element(
      "div",
      {
        class: "rows-frame",
        tabindex: 0,
        role: "listbox",
        "aria-label": "features",
        onscroll: () => {
          this.top = this.frame.scrollTop;
          this.drawRows();
        },
        onkeydown: (event) => this.key(event),
      },
      this.rows,
    );
    this.root = element(
      "div",
      { class: "feature-list" },
      element("div", { class: "list-controls" }, this.input, this.which),
      this.told,
      element("div", { class: "list-heads" }, ...this.heads),
      this.frame,
    );
    // Kept, since to ask the browser while the page is redrawn makes it lay out the page once more.
    Object.assign(this, { top: 0, height: 600 });
    new ResizeObserver(() => {
      this.height = this.frame.clientHeight;
      this.drawRows();
    }).observe(this.frame);
  }

  /** The label of a feature, or the class that it raises most. */
  wordOf(feature) {
    const label = this.labels.get(feature);
    if (label) return label.toLowerCase();
    const index = this.features.firstClass(feature);
    // Classes come behind labels.
    return `\uffff${index === null ? "" : this.classOf(index).toLowerCase()}`;
  }

  sortBy(name, down) {
    this.sort = { by: name, down: this.sort.by === name ? !this.sort.down : down };
    this.refresh();
  }

  /** Finds and sorts anew; the list begins at its top. */
  refresh() {
    this.find();
    this.scrollTo(0);
    this.drawRows();
  }

  find() {
    const { features, labels, sort } = this;
    const isIn = {
      active: (feature) => features.active[feature] > 0,
      labelled: (feature) => labels.get(feature) !== "",
      all: () => true,
    }[this.which.value];
    const some =
      this.which.value === "picture"
        ? features.ofPicture(this.picture).map(([feature]) => feature)
        : Array.from({ length: features.n }, (_, feature) => feature).filter(isIn);
    const words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = words.length ? some.filter((feature) => this.matches(feature, words)) : some;
    const by = COLUMNS.find(([name]) => name === sort.by)[3];
    const keys = new Map(found.map((feature) => [feature, by(this, feature)]));
    const turn = sort.down ? -1 : 1;
    found.sort((one, other) => {
      const [a, b] = [keys.get(one), keys.get(other)];
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b) || one - other;
      return turn * (a < b ? -1 : a > b ? 1 : 0) || one - other;
    });
    // The feature whose number was typed comes first.
    const exact = /^f?\d+$/.test(words[0] ?? "") && words.length === 1 ? Number(words[0].replace("f", "")) : -1;
    if (found.includes(exact)) found.splice(0, 0, ...found.splice(found.indexOf(exact), 1));
    this.order = found;
    this.told.value = `${found.length.toLocaleString("en")} of ${features.n.toLocaleString("en")} features`;
    for (const head of this.heads) {
      const isIt = head.dataset.sort === sort.by;
      head.setAttribute("aria-pressed", isIt);
      const [, text] = COLUMNS.find(([name]) => name === head.dataset.sort);
      head.textContent = isIt ? `${text} ${sort.down ? "↓" : "↑"}` : text;
      head.setAttribute("aria-label", isIt ? `${text}, sorted, ${sort.down ? "large first" : "small first"}` : `sort by ${text}`);
    }
  }

  matches(feature, words) {
    const number = String(feature);
    const names = this.once(feature);
    const label = this.labels.get(feature).toLowerCase();
    return words.every(
      (word) => number.startsWith(word.replace(/^f(?=\d)/, "")) || label.includes(word) || names.includes(word),
    );
  }

  /** The classes that it raises most, as one text to look through. */
  once(feature) {
    return this.features.once(`names ${feature}`, () =>
      (this.features.classes(feature)?.raised.slice(0, 2) ?? []).map(([index]) => this.classOf(index).toLowerCase()).join(" "),
    );
  }

  drawRows() {
    const { frame, order, top, height } = this;
    const first = Math.max(0, Math.floor(top / ROW_HEIGHT) - 4);
    const last = Math.min(order.length, Math.ceil((top + height) / ROW_HEIGHT) + 4);
    this.rows.style.height = `${order.length * ROW_HEIGHT}px`;
    this.rows.replaceChildren(...order.slice(first, last).map((feature, i) => this.row(feature, first + i)));
    const at = order.indexOf(this.chosen);
    if (at >= first && at < last) frame.setAttribute("aria-activedescendant", `feature-row-${this.chosen}`);
    else frame.removeAttribute("aria-activedescendant");
  }

  scrollTo(place) {
    this.top = clamp(place, 0, Math.max(0, this.order.length * ROW_HEIGHT - this.height));
    this.rows.style.height = `${this.order.length * ROW_HEIGHT}px`;
    if (this.frame.scrollTop !== this.top) this.frame.scrollTop = this.top;
  }

  row(feature, at) {
    const { features } = this;
    const label = this.labels.get(feature);
    const index = features.firstClass(feature);
    const word = label || (index === null ? "" : this.classOf(index));
    return element(
      "div",
      {
        class: "row",
        role: "option",
        id: `feature-row-${feature}`,
        "data-feature": feature,
        "aria-selected": feature === this.chosen,
        "aria-setsize": this.order.length,
        "aria-posinset": at + 1,
        style: `top: ${at * ROW_HEIGHT}px`,
        onclick: () => this.events.pick(feature),
      },
      element("strong", {}, String(feature)),
      element("span", { class: label ? "label" : "class", title: word }, word),
      element("span", { class: "number" }, smallShare(features.density[feature])),
      element("span", { class: "number" }, number(features.largest[feature])),
      element("span", { class: "number" }, Number.isNaN(features.locality(feature)) ? "–" : features.locality(feature).toFixed(2).replace("-", "−")),
    );
  }

  /** Shows which feature is chosen; one that is out of sight is scrolled into it. */
  draw(feature, picture) {
    const moved = this.picture !== picture;
    Object.assign(this, { chosen: feature, picture });
    if (!this.order.length || (moved && this.which.value === "picture")) this.find();
    const at = this.order.indexOf(feature);
    if (at >= 0) {
      const place = at * ROW_HEIGHT;
      if (place < this.top || place + ROW_HEIGHT > this.top + this.height) this.scrollTo(place - this.height / 2);
    }
    this.drawRows();
  }

  /** The feature before or behind the chosen one in the order of the list. */
  step(by) {
    const at = this.order.indexOf(this.chosen);
    const next = at < 0 ? this.order[0] : this.order[clamp(at + by, 0, this.order.length - 1)];
    if (next !== undefined && next !== this.chosen) this.events.pick(next, true);
  }

  key(event) {
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (by) this.step(by);
    else if (event.key === "Enter" && event.target === this.input && this.order.length) this.events.pick(this.order[0]);
    else if (event.key === "Escape" && event.target === this.input) {
      this.input.value = "";
      this.refresh();
      this.frame.focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
