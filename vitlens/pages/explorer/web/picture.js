// The picture's panel: the stage, what lies on it and how, its legend, and the film strip below.

class PicturePanel {
  constructor(view) {
    this.view = view;
    const { grid, tip } = view;
    this.stage = new Stage(
      grid,
      tip,
      this.events(() => view.at()),
      "the picture with its patches: arrow keys move over them, Shift adds",
    );
    this.compare = new Compare(grid, tip, {
      other: this.events(
        () => view.two(),
        () => this.compare.other.shown,
      ),
      difference: this.events(() => null),
    });
    this.strip = new Strip(grid, view.labels, (block) => view.choose({ block }));
    this.stripNote = element("small", { hidden: true });
    this.layers = element("div", {
      class: "layers segmented",
      role: "group",
      "aria-label": "what lies on the picture",
    });
    this.caption = element("p", { class: "caption" });
    this.maps = element("div", { class: "maps segmented", role: "group", "aria-label": "which heatmap" });
    this.selected = element("output", { class: "selected" });
    this.controls = this.buildControls();
    this.legend = element("div", { class: "legend" });
    this.stage.root.querySelector(".chips").append(this.selected);
    this.stagesRow = element(
      "div",
      { class: "stages" },
      this.stage.root,
      ...this.compare.stages.map(({ root }) => root),
    );
    this.root = panel(
      "picture",
      "Where does that come from?",
      {
        id: view.options.page ? "picture" : null,
        source: {
          drawing: () => stageDrawing(this.stage),
          table: () => this.table(),
          name: () => `${view.fileName()}-${view.state.layer}`,
          caption: () =>
            view.caption(
              `${layerOf(view.state.layer).label}: ${this.told} ${this.legend.children[1]?.textContent ?? ""}${this.marksTold()}`,
            ),
        },
      },
      this.layers,
      element("div", { class: "told" }, this.caption, this.maps),
      this.stagesRow,
      this.legend,
      this.controls,
      this.strip.root,
      this.stripNote,
      this.compare.table,
    );
  }

  /** What a stage does when patches are selected, and what it tells of one; `ask()` is what its layer is asked with. */
  events(ask, shown = () => this.shown) {
    const { view } = this;
    return {
      select: (tokens, add, byKey) => {
        if (!byKey) return view.select(tokens, add);
        return view.choose({ tokens: add ? view.added(tokens) : tokens });
      },
      tell: (token) => this.tell(token, ask(), shown()),
    };
  }

  tell(token, at, shown) {
    if (!shown) return null;
    if (!at) {
      const { values, scale } = this.compare.difference.shown;
      return [this.view.grid.name(token), values ? `${scale.show(values[token])} more in the first` : null];
    }
    const { measured, grid } = at;
    const { values } = shown;
    const patch = token - grid.nPrefix;
    const lines = [grid.name(token)];
    if (values && Number.isFinite(values[token]))
      lines.push(`${layerOf(at.state.layer).label.toLowerCase()}: ${this.shown.scale.show(values[token])}`);
    if (at.state.layer === "without" && patch >= 0) {
      const without = measured.without(patch, at.choice.class);
      if (without)
        lines.push(
          `without it ${at.names.ofClass} has ${percent(without.probability)}` +
            (without.first === at.choice.class ? "" : `; ${at.names.of(without.first)} is first`),
        );
    }
    if (patch >= 0 && measured.outliers[patch]) lines.push("an artefact token (hatched)");
    return lines;
  }

  buildControls() {
    const { view } = this;
    const slider = (name, label, tip) => {
      const input = element("input", {
        type: "range",
        name,
        min: 0,
        max: name === "threshold" ? 95 : 100,
        title: tip,
        oninput: ({ target }) =>
          view
            .choose({ [name]: Number(target.value) }, { replace: this.sliding === name })
            .then(() => (this.sliding = name)),
        onchange: () => (this.sliding = null),
      });
      return element("label", {}, element("span", {}, label), input);
    };
    this.opacity = slider("opacity", "strength", "how strongly the map is drawn");
    this.threshold = slider("threshold", "hide below", "patches below this are not drawn");
    this.scale = element(
      "select",
      { name: "scale", onchange: ({ target }) => view.choose({ scale: target.value }) },
      element("option", { value: "fixed" }, "fixed"),
      element("option", { value: "blocks" }, "all blocks"),
      element("option", { value: "map" }, "this map"),
    );
    this.quantity = element(
      "select",
      { name: "quantity", onchange: ({ target }) => view.choose({ quantity: target.value }) },
      ...view.facts.quantities.map((quantity) => element("option", { value: quantity }, quantity)),
    );
    const lift = button("lift map", () => {}, {
      title: "hold to see the picture; so does the Space key",
      onpointerdown: () => view.keyboard.lift(true),
      onpointerup: () => view.keyboard.lift(false),
      onpointerleave: () => view.keyboard.lift(false),
      onkeydown: ({ key }) => (key === " " || key === "Enter") && view.keyboard.lift(true),
      onkeyup: () => view.keyboard.lift(false),
    });
    this.several = button("add patches", () => this.setSeveral(!this.stage.several), {
      "aria-pressed": "false",
      title: "each click adds a patch, as with Shift",
    });
    return element(
      "div",
      { class: "controls" },
      element("label", {}, element("span", {}, "scale"), this.scale),
      this.opacity,
      this.threshold,
      lift,
      this.several,
    );
  }

  setSeveral(several) {
    for (const stage of this.view.stages()) stage.several = several;
    this.several.setAttribute("aria-pressed", several);
  }

  setPicture(picture) {
    this.stage.setPicture(picture);
    this.strip.setPicture(picture);
  }

  // ---- Drawing ------------------------------------------------------------------------------------------------------

  draw(at, two) {
    const { view } = this;
    const { state } = at;
    const layer = layerOf(state.layer);
    this.drawLayers(state);
    const scale = two ? sharedScale(scaleOf(layer, at), scaleOf(layer, two)) : scaleOf(layer, at);
    this.shown = this.shownOn(layer, at, scale);
    this.stage.draw(this.shown);
    this.stage.heading.textContent = two ? headingOf(at, two) : "";
    const [told, term] = layer.caption(at);
    this.told = told;
    const text = told + this.warningOf(at, layer);
    view.once("caption", [text], () => this.caption.replaceChildren(`${text} `, view.tip.term(term, "What is this?")));
    view.once("maps", [state.picture, state.layer, state.heatmap, state.quantity, state.baseline], () =>
      this.drawChoices(at, layer),
    );
    view.once(
      "legend",
      [scale.end, scale.note, state.picture, state.layer, Boolean(this.shown.values), state.threshold, state.quantity],
      () => this.drawLegend(scale, state),
    );
    this.opacity.lastChild.value = state.opacity;
    this.threshold.lastChild.value = state.threshold;
    this.scale.value = state.scale;
    this.scale.options[1].disabled = !layer.blocks;
    this.selected.replaceChildren(...this.sumOfSelected(at, layer));
    const paintOptions = { opacity: state.opacity / 100, threshold: state.threshold / 100 };
    const values = layer.blocks && this.shown.values ? (i) => layer.values(at, i) : null;
    this.strip.draw(values, scale, state.block, paintOptions);
    const oneOfEach = ["from", "to", "writes"].includes(layer.name) && typeof state.head === "number";
    this.stripNote.hidden = layer.blocks && !oneOfEach;
    this.stripNote.textContent = oneOfEach
      ? `Head ${state.head} of every block; a click chooses the block, and this head of it.`
      : "This map is of the whole model, not of one block.";
    for (const { root } of this.compare.stages) root.hidden = !two;
    this.compare.table.hidden = !two;
    if (two) this.compare.draw(at, two, layer, this.shown, this.shownOn(layer, two, scale));
  }

  shownOn(layer, at, scale) {
    const { state, measured } = at;
    const values = layer.present(at) ? layer.values(at, state.block) : null;
    const absent = values
      ? null
      : (measured.picture.missing?.[layer.name] ?? layer.absent?.(at) ?? "Not measured for this picture.");
    return {
      values,
      scale,
      opacity: state.opacity,
      threshold: state.threshold,
      outliers: measured.outliers,
      selected: state.tokens,
      absent,
    };
  }

  drawLayers(state) {
    const { view } = this;
    view.once("layers", [state.picture, state.layer], () => {
      // The focus stays where it was.
      const present = view.layers();
      if (this.layers.children.length !== present.length)
        this.layers.replaceChildren(
          ...present.map(({ name, label }, i) =>
            button(label, () => view.choose({ layer: name }), { "data-layer": name, title: `key ${i + 1}` }),
          ),
        );
      for (const each of this.layers.children) each.setAttribute("aria-pressed", each.dataset.layer === state.layer);
    });
  }

  /** What must be minded of the heatmap on show. */
  warningOf({ measured, state }, layer) {
    if (layer.name !== "heatmap") return "";
    const { title } = mapOf(measured, state);
    const own = (measured.picture.warnings ?? []).filter((text) => text.startsWith(title));
    return own.map((text) => ` ⚠${text.slice(title.length + 1)}.`).join("");
  }

  /** What else there is to choose of a layer: which heatmap, or which number of the lens. */
  drawChoices({ measured, state }, layer) {
    const { view } = this;
    const choice = (label, changes, pressed, disabled = false) =>
      button(label, () => view.choose(changes), { "aria-pressed": pressed, disabled });
    if (layer.name === "heatmap")
      this.maps.replaceChildren(
        ...measured.picture.heatmaps.map((map, i) => choice(mapName(map), { heatmap: i }, i === state.heatmap)),
      );
    else if (layer.name === "lens")
      this.maps.replaceChildren(
        ...view.facts.quantities.map((quantity) =>
          choice(
            quantity,
            { quantity },
            (state.baseline === null ? state.quantity : "logit") === quantity,
            state.baseline !== null,
          ),
        ),
      );
    else this.maps.replaceChildren();
  }

  drawLegend(scale, state) {
    const hidden = state.threshold && scale.hides ? `; below ${scale.show(scale.at(state.threshold / 100))} hidden` : "";
    this.legend.replaceChildren(
      ramp(scale),
      element("small", {}, `${capital([scale.note, scale.named()].filter(Boolean).join("; ") || "scale")}${hidden}.`),
      this.legendMarks(),
    );
  }

  /** What the marks on the picture mean, where there are any. */
  legendMarks() {
    const { outliers } = this.shown;
    const hatched = outliers.some(Boolean);
    return element(
      "small",
      { class: "marks" },
      ...(hatched ? [element("i", { class: "hatched" }), "artefact token (unusually long vector) "] : []),
      element("i", { class: "pink" }),
      "selected",
    );
  }

  /** What the selection holds of the map on show. */
  sumOfSelected({ state, measured, grid, names }, layer) {
    if (!state.tokens.length) return ["Click a patch, drag a box, Shift adds; nothing is selected."];
    const values = this.shown.values;
    const text = [`Selected: ${names.subject}`];
    const patches = state.tokens.filter((token) => values && Number.isFinite(values[token]));
    // What looks at several tokens can pass 100 % in sum, so that it is not added up.
    const adds = ["heatmap", "without", "writes", "from"].includes(layer.name);
    if (patches.length === 1) text.push(`, ${layer.label.toLowerCase()} ${this.shown.scale.show(values[patches[0]])}`);
    else if (patches.length && adds) {
      const sum = patches.reduce((total, token) => total + values[token], 0);
      const about = layer.name === "without" ? "≈ " : "";
      text.push(`, together ${about}${this.shown.scale.show(sum)}${about ? " (single removals added)" : ""}`);
    }
    return text;
  }

  /** The same in words, for a caption. */
  marksTold() {
    const { outliers, selected } = this.shown;
    const hatched = outliers.some(Boolean) ? " Hatched: artefact tokens." : "";
    const framed = selected.some((token) => token >= this.view.grid.nPrefix);
    return `${hatched}${framed ? " Pink: selected." : ""}`;
  }

  unit() {
    const { state, measured } = this.view;
    if (state.layer === "heatmap") return mapOf(measured, state).unit ?? "";
    const units = { without: "logits", writes: "logits", from: "share", to: "share", similar: "cosine", components: "RGB" };
    return units[state.layer] ?? state.quantity;
  }

  table() {
    const { values } = this.shown;
    const { grid, state } = this.view;
    const rows = Array.from({ length: grid.nTokens }, (_, token) => [
      ...(token < grid.nPrefix ? [grid.name(token), ""] : grid.place(token)),
      values && Number.isFinite(values[token]) ? this.shown.scale.written(values[token]) : "",
    ]);
    return [["row", "column", [state.layer, this.unit()].filter(Boolean).join(", ")], ...rows];
  }
}
