// What another picture changes: its patches, heads and MLPs, put into this one at a time, and how far the decision moves.

/** Two classes whose difference is the decision: the choice, or the class less the other picture's own first. */
function swapChoice({ measured, choice }) {
  const other = measured.picture.swap?.answer;
  if (choice.baseline !== null || other === choice.class || !measured.classes.includes(other)) return choice;
  return { class: choice.class, baseline: other };
}

/**
 * {from, to, patches, heads, mlps}: the number of the choice on this picture and on the other, and of each part the share of
 * the way from the one to the other that it moves alone; null where nothing was put in.
 */
function swapOf(measured, choice) {
  const { swap_logits, swap_source } = measured.tensors;
  if (!swap_logits || !measured.stores(choice)) return null;
  return measured.once(`swap ${choice.class} ${choice.baseline}`, () => {
    const [n, nClasses] = swap_logits.shape;
    const place = (index) => measured.classes.indexOf(index);
    const from = measured.answerLogit(choice);
    const to = measured.of(choice, (index) => swap_source.data[place(index)]);
    const all = Float64Array.from(
      { length: n },
      (_, cell) => (measured.of(choice, (index) => swap_logits.data[cell * nClasses + place(index)]) - from) / (to - from),
    );
    const heads = measured.nPatches + measured.nBlocks * measured.nHeads;
    return {
      from,
      to,
      patches: all.subarray(0, measured.nPatches),
      heads: all.subarray(measured.nPatches, heads),
      mlps: all.subarray(heads),
    };
  });
}

/** A share of the way, of either sign; in the board's cells in whole per cent. */
function wayScale() {
  const note = "share of the way to the other picture, colours end at −100 and +100 %; + moves towards it";
  const cell = (share) => (Math.abs(share) < 0.005 ? "" : (share > 0 ? "+" : "−") + Math.round(100 * Math.abs(share)));
  return Object.assign(new Scale({ end: 1, signed: true, show: percentSigned, note }), { cell });
}

class SwapCard {
  /** `events`: pickPart(block, part), pickToken(token). */
  constructor(tip, labels, facts, events) {
    Object.assign(this, { facts, events, parts: [] });
    this.told = element("p", { class: "subtitle" });
    this.board = new Board(tip, labels, facts.n_heads, {
      pick: events.pickPart,
      tell: (block, part) => this.tell(block, part),
    });
    this.bars = new Bars(tip, "swap", ["share of the way"], {
      pick: (row) => (row.token === undefined ? events.pickPart(row.block, row.part) : events.pickToken(row.token)),
      tell: ({ name, values, after }) => [name, `moves the decision ${percentSigned(values[0])} of the way`, after],
    });
    this.root = element(
      "div",
      { class: "card", "data-card": "swap" },
      this.told,
      this.board.root,
      element("h4", {}, "What moves the decision most"),
      this.bars.root,
    );
  }

  tell(block, part) {
    const found = this.parts.find((each) => each.block === block && each.part === part);
    return [found.name, `moves the decision ${percentSigned(found.value)} of the way`];
  }

  draw(at) {
    const { measured, state, names, facts, grid } = at;
    const choice = swapChoice(at);
    const swap = swapOf(measured, choice);
    for (const root of [this.board.root, ...[...this.root.children].slice(2)]) root.hidden = !swap;
    this.parts = [];
    if (!swap) return void (this.told.textContent = notStored(names));
    const add = (name, value, cell, place) => this.parts.push({ name, value, after: this.after(at, cell, choice), ...place });
    swap.heads.forEach((value, i) =>
      add(names.cell(i), value, measured.nPatches + i, { block: Math.floor(i / facts.n_heads), part: i % facts.n_heads }),
    );
    swap.mlps.forEach((value, block) =>
      add(`MLP of block ${facts.blocks[block]}`, value, measured.nPatches + swap.heads.length + block, { block, part: "mlp" }),
    );
    swap.patches.forEach((value, patch) => add(grid.name(grid.nPrefix + patch), value, patch, { token: grid.nPrefix + patch }));
    const scale = wayScale();
    this.board.draw({ heads: swap.heads, mlps: swap.mlps, scale, block: state.block, part: state.head });
    const order = ranked(this.parts.map(({ value }) => value));
    this.bars.draw({
      rows: order.slice(0, 8).map((i) => ({
        ...this.parts[i],
        values: [this.parts[i].value],
        chosen: this.parts[i].token === undefined ? this.parts[i].block === state.block && this.parts[i].part === state.head : state.tokens.length === 1 && state.tokens[0] === this.parts[i].token,
      })),
      // A part can move the decision further than to the other picture's: bars that end at 100 % would all be as long.
      scale: new Scale({ end: Math.max(1, Math.abs(this.parts[order[0]].value)), signed: true, root: 1, show: percentSigned }),
      axis: "share of the way",
    });
    this.told.textContent = this.sentence(at, choice, swap, this.parts[order[0]]);
  }

  /** The first class once a part is put in, where it is another. */
  after({ measured, names }, cell, { class: wanted }) {
    const first = measured.tensors.swap_top.data[cell];
    return measured.picture.swap.answer === null || first < 0 || first === wanted ? null : `${names.of(first)} is then first`;
  }

  sentence({ measured, names }, choice, { from, to }, most) {
    const { swap } = measured.picture;
    const other = names.otherPicture;
    const decision = names.of(choice.class) + (choice.baseline === null ? "" : ` − ${names.of(choice.baseline)}`);
    return (
      `Each head, MLP and patch of ${other}, put into this picture one at a time: how far ${decision} moves from ${signed(from)} here to ` +
      `${signed(to)} there (activation patching, ${howRemoved(swap).replace("without", "with")}); in per cent of the way. ` +
      `${capital(most.name)} moves it most, ${percentSigned(most.value)} of the way${most.after ? `; ${most.after}` : ""}.`
    );
  }

  table() {
    return [["part", "share of the way"], ...this.parts.map(({ name, value }) => [name, value])];
  }
}
