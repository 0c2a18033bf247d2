// The card of a head, of an MLP, or of all heads of a block: in this picture and over a data set.

class PartCard {
  /** `events`: pickClass(index), showLayer(name), pickHead(name). */
  constructor(grid, events) {
    Object.assign(this, { grid, events, facts: [] });
    this.small = { writes: this.smallMap("writes"), from: this.smallMap("from") };
    this.heading = element("h3", {});
    this.list = element("dl", { class: "facts" });
    this.classes = element("div", { class: "reads" });
    this.neurons = element("div", { class: "reads" });
    this.note = element("p", { class: "note" });
    this.dataSet = new DataSetCard(grid, events.pickHead);
    this.root = element(
      "div",
      { class: "card part-card", "data-card": "part" },
      this.heading,
      element("div", { class: "small-maps" }, this.small.writes.root, this.small.from.root),
      this.list,
      this.classes,
      this.neurons,
      this.note,
      this.dataSet.root,
    );
  }

  smallMap(layer) {
    const image = element("img", { alt: "" });
    const canvas = element("canvas", { width: this.grid.columns, height: this.grid.rows });
    const frame = element("span", { class: "small", "data-map": "true" }, image, canvas);
    const label = element("span", {});
    return {
      image,
      canvas,
      frame,
      label,
      root: element("button", { type: "button", onclick: () => this.events.showLayer(layer) }, frame, label),
    };
  }

  setPicture({ uri, width, height }) {
    for (const { image, frame } of Object.values(this.small)) {
      if (image.getAttribute("src") !== uri) image.src = uri;
      frame.style.aspectRatio = `${width} / ${height}`;
    }
  }

  draw(at) {
    const { measured, state, choice, names, readers, facts } = at;
    const { block, head } = state;
    const isHead = head !== "mlp" && head !== null;
    this.heading.textContent =
      head === "mlp" ? `MLP of block ${names.block}` : isHead ? names.head : `All heads of block ${names.block}`;
    for (const [name, label] of [
      ["writes", "what it writes, by patch"],
      ["from", `where ${names.readers} looks`],
    ]) {
      const { canvas, frame, label: text, root } = this.small[name];
      root.hidden = head === "mlp" || !layerOf(name).present(at);
      if (root.hidden) continue;
      const own = { ...at, subject: readers };
      const layer = layerOf(name);
      const values = layer.values(own, block);
      text.textContent = label;
      frame.dataset.signed = Boolean(values) && layer.scale(own).both;
      root.setAttribute("aria-label", `${label}: lay it over the picture`);
      if (values) paint(canvas, values.subarray(this.grid.nPrefix), layer.scale(own));
      canvas.hidden = !values;
    }
    const known = this.known(at, isHead, block, head);
    this.facts = known;
    this.list.replaceChildren(
      ...known.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
    );
    this.drawClasses(at, isHead, block, head);
    this.drawNeurons(at, block, head);
    this.dataSet.draw(facts.data_set, block, head);
    this.note.textContent = isHead ? this.sink(at, block, head) : "";
    this.note.hidden = !this.note.textContent;
  }

  known({ measured, choice, facts, state, names }, isHead, block, head) {
    const known = [];
    const heads = measured.heads(choice);
    const mlps = measured.mlps(choice);
    const lost = measured.lost(choice);
    const cell = block * facts.n_heads + head;
    if (isHead && heads) {
      const order = ranked(heads);
      known.push(
        [`writes for ${names.choice}`, signed(heads[cell])],
        ["rank among heads", `${1 + order.indexOf(cell)} of ${heads.length} heads`],
      );
    } else if (head === "mlp" && mlps) known.push([`writes for ${names.choice}`, signed(mlps[block])]);
    else if (heads)
      known.push([
        `write for ${names.choice}`,
        signed(
          heads.subarray(block * facts.n_heads, (block + 1) * facts.n_heads).reduce((sum, value) => sum + value, 0),
        ),
      ]);
    if (lost && head !== null) {
      const kind = isHead ? "heads" : "mlps";
      const estimated = measured.picture.effects?.[kind] === "estimated";
      known.push([COSTS, `${estimated ? "≈ " : ""}${signed(lost[kind][isHead ? cell : block])} logits`]);
      const row = measured.nPatches + (isHead ? cell : measured.nBlocks * facts.n_heads + block);
      const without = measured.without(row, choice.class);
      if (without)
        known.push([
          "the answer is then",
          without.first === choice.class
            ? `the same, ${percent(without.probability)}`
            : `${cut(names.short(without.first), 26)}; ${names.ofClass} has ${percent(without.probability)}`,
        ]);
    }
    return known;
  }

  drawClasses({ measured, names, facts }, isHead, block, head) {
    const found = isHead
      ? measured.classesOf("all_heads", block * facts.n_heads + head)
      : head === "mlp"
        ? measured.classesOf("all_mlps", block)
        : null;
    this.classes.hidden = !found;
    if (!found) return;
    const list = (title, pairs) =>
      element(
        "div",
        {},
        element("h4", {}, title),
        element(
          "ul",
          {},
          ...pairs.map(([index, value]) =>
            element(
              "li",
              {},
              button(cut(names.short(index), 24), () => this.events.pickClass(index), { class: "plain" }),
              element("output", {}, signed(value)),
            ),
          ),
        ),
      );
    this.classes.replaceChildren(list("raises most", found.raised), list("lowers most", found.lowered));
  }

  /** The neurons of an MLP that write most for or against the class in this picture. */
  drawNeurons({ measured, choice, names }, block, head) {
    const found = head === "mlp" ? neuronsOf(measured, choice, block) : null;
    this.neurons.hidden = !found;
    if (!found) return;
    this.neurons.replaceChildren(
      element("h4", {}, `Its neurons that write most for ${names.ofClass}`),
      element(
        "ul",
        { class: "neurons" },
        ...found.map(([neuron, value]) =>
          element("li", {}, element("span", {}, `neuron ${neuron}`), element("output", {}, signed(value))),
        ),
      ),
    );
    this.facts.push(...found.map(([neuron, value]) => [`neuron ${neuron}`, value]));
  }

  /** Heads that look at artefact tokens do so in place of the picture. */
  sink({ measured, readers, grid, names }, block, head) {
    const values = measured.attention("from", block, head, readers);
    let hatched = 0;
    measured.outliers.forEach((is, patch) => (hatched += is ? values[grid.nPrefix + patch] : 0));
    const prefix = values.subarray(0, grid.nPrefix).reduce((sum, value) => sum + value, 0);
    const told = [];
    if (hatched >= 0.2)
      told.push(`${percent(hatched)} of what ${names.readers} looks at are artefact tokens (hatched).`);
    if (prefix >= 0.5)
      told.push(`${percent(prefix)} of what ${names.readers} looks at are prefix tokens, not the picture.`);
    return told.join(" ");
  }

  table() {
    return [["of", "value"], ...this.facts];
  }
}

/** [neuron, what it writes directly], the strongest first; of one class, not of a difference. */
function neuronsOf(measured, { class: wanted, baseline }, block) {
  const { neurons, neuron_writes } = measured.tensors;
  const at = measured.classes.indexOf(wanted);
  if (!neurons || at < 0 || baseline !== null) return null;
  const n = neurons.shape[2];
  const first = (at * measured.nBlocks + block) * n;
  return Array.from({ length: n }, (_, i) => [neurons.data[first + i], neuron_writes.data[first + i]]);
}
