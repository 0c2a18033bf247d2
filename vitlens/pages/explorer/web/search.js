// The search field: classes, heads, blocks, MLPs, features, patches; what is found is chosen.

class Search {
  /** `find(text)` → [{label, note, run, second: {label, run} or undefined}]; `example` stands in the empty field. */
  constructor(find, example) {
    Object.assign(this, { find, found: [], at: 0 });
    this.input = element("input", {
      type: "search",
      placeholder: example,
      role: "combobox",
      "aria-label": "ask about a class, head, block, MLP, feature or patch",
      "aria-expanded": "false",
      "aria-autocomplete": "list",
      autocomplete: "off",
      spellcheck: "false",
      oninput: () => this.look(),
      onfocus: () => this.look(),
      onkeydown: (event) => this.key(event),
      onblur: () => this.close(),
    });
    const name = `found-${Math.random().toString(36).slice(2)}`;
    this.list = element("ul", { class: "found", role: "listbox", id: name, "aria-label": "found", hidden: true });
    this.input.setAttribute("aria-controls", name);
    this.name = name;
    this.root = element("div", { class: "search" }, this.input, this.list);
  }

  look() {
    this.found = this.find(this.input.value.trim());
    this.at = 0;
    this.draw();
  }

  draw() {
    const { found, list, input } = this;
    list.replaceChildren(
      ...found.map((item, i) =>
        element(
          "li",
          {
            role: "option",
            id: `${this.name}-${i}`,
            "aria-selected": i === this.at,
            // The field keeps the focus until the click has chosen.
            onpointerdown: (event) => event.preventDefault(),
            onclick: () => this.choose(item.run),
          },
          element("span", {}, item.label),
          element("small", {}, item.note ?? ""),
          item.second
            ? button(
                item.second.label,
                (event) => {
                  event.stopPropagation();
                  this.choose(item.second.run);
                },
                { tabindex: -1, class: "second" },
              )
            : null,
        ),
      ),
    );
    if (!found.length && input.value.trim()) list.append(element("li", { class: "none" }, "nothing found"));
    list.hidden = !list.children.length;
    input.setAttribute("aria-expanded", !list.hidden);
    input.setAttribute("aria-activedescendant", found.length ? `${this.name}-${this.at}` : "");
    list.children[this.at]?.scrollIntoView({ block: "nearest" });
  }

  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && this.found.length) {
      event.preventDefault();
      this.at = (this.at + step + this.found.length) % this.found.length;
      this.draw();
    } else if (event.key === "Enter" && this.found[this.at]) {
      event.preventDefault();
      const item = this.found[this.at];
      this.choose(event.shiftKey && item.second ? item.second.run : item.run);
    } else if (event.key === "Escape") {
      event.stopPropagation();
      this.input.value = "";
      this.input.blur();
    }
  }

  choose(run) {
    this.input.value = "";
    this.input.blur();
    run();
  }

  close() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
  }
}

/** What a text can mean, best first. `view` has the names and `choose`. */
function meanings(view, text) {
  const { facts, grid } = view;
  const found = [];
  const choose = (label, note, changes, panel) =>
    found.push({ label, note, run: () => view.choose(changes).then(() => panel && view.show(panel)) });
  const block = (number) => facts.blocks.indexOf(Number(number));
  const head = /^l?(\d+)\s*[h.]\s*(\d+)$/i.exec(text);
  if (head && block(head[1]) >= 0 && Number(head[2]) < facts.n_heads)
    choose(
      `head L${Number(head[1])}H${Number(head[2])}`,
      "head",
      { block: block(head[1]), head: Number(head[2]) },
      "head",
    );
  const one = /^(?:l|block|layer)\s*(\d+)$/i.exec(text);
  if (one && block(one[1]) >= 0)
    choose(`block ${Number(one[1])}`, "all its heads", { block: block(one[1]), head: null }, null);
  const mlp = /^(?:mlp\s*(?:of\s*)?(?:block\s*|l)?(\d+)|l(\d+)\s*mlp)$/i.exec(text);
  if (mlp && block(mlp[1] ?? mlp[2]) >= 0)
    choose(`MLP of block ${Number(mlp[1] ?? mlp[2])}`, "MLP", { block: block(mlp[1] ?? mlp[2]), head: "mlp" }, "head");
  const feature = /^(?:f|feature)\s*(\d+)$/i.exec(text);
  if (feature && view.measured?.tensors.feature_ids && Number(feature[1]) < facts.dictionary.n_features)
    choose(`feature ${Number(feature[1])}`, "feature", { feature: Number(feature[1]), layer: "feature" }, "feature");
  const patch = /^(?:patch)?\s*\(?\s*(\d+)\s*[,; ]\s*(\d+)\s*\)?$/i.exec(text);
  if (patch && Number(patch[1]) < grid.rows && Number(patch[2]) < grid.columns)
    choose(
      `patch (${Number(patch[1])}, ${Number(patch[2])})`,
      "row, column",
      { tokens: [grid.token(Number(patch[1]), Number(patch[2]))] },
      "patch",
    );
  for (let token = 0; text && token < grid.nPrefix; token++)
    if (grid.name(token).includes(text.toLowerCase()))
      choose(grid.name(token), "prefix token", { tokens: [token] }, "patch");
  return [...found, ...classesLike(view, text)].slice(0, 12);
}

/** Classes whose name has the text: as a whole word first, then as the beginning of one; without text the most probable. */
function classesLike(view, text) {
  const answer = view.measured?.answer();
  if (!answer) return [];
  const wanted = text.toLowerCase();
  const known = view.facts.all_classes ? Object.keys(view.facts.class_names).map(Number) : view.measured.classes;
  const weight = (index) => {
    const name = view.className(index, true).toLowerCase();
    const at = name.indexOf(wanted);
    if (String(index) === wanted) return 5;
    if (at < 0) return -1;
    const words = name.split(/\W+/);
    const kind = words.includes(wanted) ? 3 : words.some((word) => word.startsWith(wanted)) ? 2 : 1;
    return kind + (answer[index] || 0);
  };
  return known
    .map((index) => [index, weight(index)])
    .filter(([, found]) => found >= 0)
    .sort((one, other) => other[1] - one[1])
    .slice(0, 8)
    .map(([index]) => ({
      label: cut(view.className(index), 44),
      note: percent(answer[index]),
      run: () => view.choose({ class: index, ...(view.state.baseline === index ? { baseline: null } : {}) }),
      second:
        index === view.at().choice.class
          ? undefined
          : { label: "minus this one", run: () => view.choose({ baseline: index }) },
    }));
}
