// What the panels draw, made of what was measured: curves of classes, points of parts, attention of heads.

/** The classes' curves over the blocks, and that of the selected patch; of a difference of classes only its own. */
function lensCurves({ measured, choice, names, state, facts, grid }, quantity) {
  const { classes } = measured;
  const curves = [];
  if (choice.baseline !== null) {
    const [one, other] = [choice.class, choice.baseline].map((index) => measured.reading("logit", index));
    if (one && other)
      curves.push({
        name: names.choice,
        values: one.map((value, i) => value - other[i]),
        kind: "main",
        colour: LINES[0],
      });
  } else {
    const shown = classes.includes(choice.class) ? classes.slice(0, 6) : [...classes.slice(0, 5), choice.class];
    if (!shown.includes(choice.class)) shown[shown.length - 1] = choice.class;
    shown.forEach((index, i) => {
      const main = index === choice.class;
      curves.push({
        name: names.short(index),
        values: measured.reading(quantity, index),
        kind: main ? "main" : "other",
        colour: LINES[i % LINES.length],
      });
    });
  }
  // The class token is what such a model reads: its curve would lie on the class's own.
  const [only] = state.tokens;
  const read = facts.pooling === "token" && only === 0 && grid.nPrefix > 0;
  if (state.tokens.length === 1 && !read && measured.stores(choice)) {
    const [token] = state.tokens;
    const colour = curves.find(({ kind }) => kind === "main")?.colour;
    const values = Float64Array.from(facts.blocks, (_, block) => measured.lens(quantity, block, choice)[token]);
    const same = curves.some(
      (curve) => curve.kind === "main" && curve.values.every((value, i) => Math.abs(value - values[i]) < 1e-4),
    );
    if (!same) curves.push({ name: grid.name(token), values, kind: "dashed", colour });
  }
  return curves;
}

/** Every head, MLP and patch: x what it writes directly, y what its removal costs. */
function causePoints({ measured, choice, names, grid, facts }, lost) {
  const { effects } = measured.picture;
  const told = (what) => (effects?.[what] === "estimated" || effects?.[what] === "boxes" ? "≈ " : "");
  const points = [];
  const heads = measured.heads(choice);
  const mlps = measured.mlps(choice);
  const all = measured.writesOfAll(choice);
  const add = (kind, name, short, x, y, place) => {
    if (Number.isFinite(x) && Number.isFinite(y))
      points.push({
        kind,
        name,
        short,
        label: name,
        x,
        y,
        told: told(`${kind}${kind === "patch" ? "es" : "s"}`),
        ...place,
      });
  };
  if (all)
    lost.patches.forEach((y, patch) => {
      const token = grid.nPrefix + patch;
      add("patch", grid.name(token), grid.name(token).slice(6), all[token], y, { token });
    });
  heads?.forEach((x, cell) => {
    const place = { block: Math.floor(cell / facts.n_heads), head: cell % facts.n_heads };
    add("head", names.cell(cell), names.cell(cell), x, lost.heads[cell], place);
  });
  mlps?.forEach((x, block) =>
    add("mlp", `MLP of block ${facts.blocks[block]}`, `MLP ${facts.blocks[block]}`, x, lost.mlps[block], { block }),
  );
  return points;
}

/** Of every head: how much of the attention of those that the model reads goes to the selection. */
function attentionTo({ measured, readers, subject, facts }) {
  const n = measured.nBlocks * facts.n_heads;
  return Float64Array.from({ length: n }, (_, cell) => {
    const values = measured.attention("from", Math.floor(cell / facts.n_heads), cell % facts.n_heads, readers);
    return subject.reduce((sum, token) => sum + values[token], 0);
  });
}

/** When a class is decided: the model's own reading after every block. */
function drawLens(panels, at) {
  const { measured, choice, names, state, facts } = at;
  const quantity = choice.baseline === null ? state.quantity : "logit";
  const own = measured.reading(quantity, choice.class);
  panels.all.when.hidden = !own;
  if (!own) return;
  const curves = lensCurves(at, quantity);
  const values = curves.flatMap((curve) => [...curve.values]).filter(Number.isFinite);
  const axis = {
    probability: () => AXES.odds(),
    rank: () => AXES.rank(facts.n_classes),
    logit: () => AXES.linear(values),
  }[quantity]();
  const uneven = { probability: " (log-odds axis)", rank: " (logarithmic axis)", logit: "" }[quantity];
  panels.lens.draw({
    steps: facts.blocks,
    stepName: (block) => `after block ${block}`,
    tick: String,
    curves,
    axis,
    yTitle: quantity + uneven,
    chosen: state.block,
    show: { probability: percent, rank: (rank) => `${Math.round(rank)}.`, logit: signed }[quantity],
  });
  const dashed = curves.find(({ kind }) => kind === "dashed");
  const patch = dashed ? `; dashed: ${dashed.name}` : "";
  panels.subtitles.when.textContent = `The model's own reading of its stream after every block: ${quantity} of ${names.choice}${patch}. A click chooses the block.`;
}

/** How parts were taken out, in words. */
function howRemoved(effects) {
  const words = { exact: "exact, one run without each", estimated: "estimated by attribution patching", boxes: "boxes of patches" };
  const kinds = { patches: "patches", heads: "heads", mlps: "MLPs" };
  const how = Object.entries(kinds).map(([kind, name]) => [name, words[effects?.[kind]] ?? words.exact]);
  if (how.every(([, text]) => text === how[0][1])) return how[0][1];
  return how.map(([name, text]) => `${name} ${text}`).join("; ");
}

/** A method by its short name. */
const mapName = ({ name }) => name.replaceAll("_", " ");

/** The test of the heatmaps: their removal curves beside those of random orders. */
function drawRemoval(panels, { measured, choice, names }) {
  const removal = measured.removal();
  const { root } = panels.removal;
  root.hidden = !removal;
  if (!removal) return void (panels.removalText.textContent = measured.picture.missing?.removal ?? "");
  const { steps, maps, random } = removal;
  const mean = steps.map((_, i) => random.reduce((sum, curve) => sum + curve[i], 0) / random.length);
  const titles = measured.picture.heatmaps.map(mapName);
  panels.removal.draw({
    steps: [...steps],
    stepName: (step) => `without ${percent(step)} of the patches`,
    tick: (step) =>
      Math.abs((step * 4) % 1) < 0.001 ? `${Math.round(step * measured.nPatches)} (${percent(step)})` : "",
    curves: [
      ...random.map((values, i) => ({ values, kind: "faint", name: i ? undefined : "each draw", quiet: true })),
      { name: `random, mean of ${random.length}`, values: mean, kind: "dashed", colour: LINES[6] },
      ...maps
        .map((values, i) => ({ name: titles[i], values, kind: i ? "other" : "main", colour: LINES[i] }))
        .filter(({ values }) => values.every(Number.isFinite)),
    ],
    axis: AXES.share(),
    show: percent,
  });
  const step = steps.reduce((best, value, i) => (Math.abs(value - 0.1) < Math.abs(steps[best] - 0.1) ? i : best), 0);
  const n = Math.round(steps[step] * measured.nPatches);
  const of = names.of(measured.classes[0]);
  panels.removalText.textContent =
    `Is the heatmap right? Without the ${n === 1 ? "patch" : `${n} patches`} that ${titles[0]} marks most, ${of} goes from ` +
    `${percent(maps[0][0])} to ${percent(maps[0][step])}; without ${n === 1 ? "one" : n} at random to ${percent(mean[step])} (mean of ${count(random.length, "draw")}).`;
}
