// What can lie on the picture: for each layer its numbers, its fixed scale, and what it is in a sentence.

/**
 * A layer is asked with `at`: {measured, state, facts, grid, choice, subject, names}, where `subject` are the tokens that
 * are selected, or those that the model reads its answer from where none is. `values(at, block)` has a number per token;
 * null where it was not measured, and then `absent(at)` says why.
 */
const LAYERS = [
  {
    name: "heatmap",
    label: "Heatmap",
    blocks: false,
    present: ({ measured }) => measured.picture.heatmaps?.length > 0 && Boolean(measured.tensors.heatmap),
    values: ({ measured, state, grid, choice }) => {
      const { class: of } = mapOf(measured, state);
      if (of !== null && (of !== choice.class || choice.baseline !== null)) return null;
      return overPatches(measured.heatmap(state.heatmap), grid);
    },
    scale: ({ measured, state }) => {
      const { signed: both } = mapOf(measured, state);
      return new Scale({
        end: largest(measured.heatmap(state.heatmap) ?? [1]) || 1,
        signed: both,
        show: both ? signed : number,
        note: `${both ? "+ speaks for the class, − against it; " : ""}ends at this map's strongest patch`,
      });
    },
    caption: ({ measured, state, names }) => {
      const { title, class: of } = mapOf(measured, state);
      const what = of === null ? "whatever the class: the method knows none" : `for ${names.choice}`;
      return [`How much each patch counts ${what} (${title}).`, "heatmap"];
    },
    absent: ({ measured, names, state }) =>
      `This map was made for ${names.of(mapOf(measured, state).class)} alone, not for ${names.choice}.`,
  },
  {
    name: "without",
    label: "Without it",
    blocks: false,
    present: ({ measured }) => Boolean(measured.tensors.effect_logits),
    values: ({ measured, grid, choice }) => overPatches(measured.lost(choice)?.patches, grid),
    scale: (at) => logits(at, "lost without the patch"),
    caption: ({ names }) => [
      `What the logit of ${names.choice} loses when this one patch leaves the sequence (single removal).`,
      "single removal",
    ],
    absent: ({ names }) => notStored(names),
  },
  {
    name: "from",
    label: "Attention from",
    blocks: true,
    present: () => true,
    values: ({ measured, state, subject }, block) => measured.attention("from", block, oneHead(state), subject),
    scale: shares,
    caption: ({ names }) => [`Where ${names.subject} ${names.looks} (attention of ${names.head}).`, "attention"],
  },
  {
    name: "to",
    label: "Attention to",
    blocks: true,
    present: () => true,
    values: ({ measured, state, subject }, block) => measured.attention("to", block, oneHead(state), subject),
    scale: shares,
    caption: ({ names }) => [
      `How much each token looks at ${names.subject} (attention of ${names.head}).`,
      "attention",
    ],
  },
  {
    name: "writes",
    label: "Head writes",
    blocks: true,
    present: ({ measured }) => Boolean(measured.tensors.shares),
    values: ({ measured, state, choice }, block) => measured.writes(block, oneHead(state), choice),
    scale: (at) => logits(at, "written from the patch"),
    caption: ({ names }) => [
      `What ${names.heads} ${names.add} to the logit of ${names.choice} out of each patch (direct logit attribution).`,
      "direct logit attribution",
    ],
    absent: ({ names }) => notStored(names),
  },
  {
    name: "lens",
    label: "Class lens",
    blocks: true,
    present: ({ measured }) => Boolean(measured.tensors.lens_logit),
    values: ({ measured, state, choice }, block) => measured.lens(state.quantity, block, choice),
    scale: ({ measured, state, facts, choice }) => {
      if (choice.baseline !== null || state.quantity === "logit")
        return new Scale({
          end: measured.lensEnd(),
          signed: true,
          show: signed,
          note: "logit, the same scale for all blocks and classes",
        });
      if (state.quantity === "rank") return new RankScale(facts.n_classes);
      return new Scale({ end: 1, show: percent, note: "probability, always 0 to 100 %" });
    },
    caption: ({ names }) => [
      `What each patch after block ${names.block} would answer by itself: ${names.quantity} of ${names.choice} (class lens). A reading, not a location.`,
      "class lens",
    ],
    absent: ({ names }) => notStored(names),
  },
  {
    name: "similar",
    label: "Similar",
    blocks: true,
    present: ({ measured }) => Boolean(measured.tensors.cosines),
    values: ({ measured, subject }, block) => measured.cosines(block, subject),
    scale: () =>
      new Scale({
        end: 1,
        signed: true,
        root: 1,
        hues: { plus: HUES.only, minus: HUES.minus },
        show: signed,
        note: "cosine, always −1 to +1",
      }),
    caption: ({ names }) => [
      `Patches whose stream after block ${names.block} is like that of ${names.subject} (cosine similarity).`,
      "cosine similarity",
    ],
  },
];

const layerOf = (name) => LAYERS.find((layer) => layer.name === name);
const oneHead = ({ head }) => (head === "mlp" ? null : head);
/** The heatmap on show: {name, title, signed, class}; class is null where a method knows no classes. */
const mapOf = ({ picture }, { heatmap }) => picture.heatmaps[heatmap] ?? picture.heatmaps[0];
const notStored = ({ choice }) =>
  `Not stored for ${choice}. Make the page with this class (--class, or classes=) to see it; who writes it and when it is decided are shown for every class.`;

function overPatches(values, grid) {
  if (!values) return null;
  const all = new Float64Array(grid.nTokens).fill(NaN);
  all.set(values, grid.nPrefix);
  return all;
}

function logits({ measured }, what) {
  return new Scale({
    end: measured.ends().patches,
    signed: true,
    show: signed,
    note: `logits ${what}: + speaks for the class, − against it; one scale for all classes, blocks and heads`,
  });
}

function shares({ measured }) {
  return new Scale({
    end: 1,
    signed: measured.hasNegativeAttention(),
    show: percent,
    root: 3,
    note: "share of the attention, always 0 to 100 %; small shares are lifted (cube root)",
  });
}

/** The scale of a layer, or the same stretched to what is shown. */
function scaleOf(layer, at) {
  const scale = layer.scale(at);
  const { scale: kind, block } = at.state;
  if (kind === "fixed" || (kind === "blocks" && !layer.blocks)) return scale;
  const blocks = kind === "map" ? [block] : at.facts.blocks.map((_, i) => i);
  const most = Math.max(
    ...blocks.map((each) =>
      largest((layer.values(at, each) ?? []).subarray?.(at.grid.nPrefix).filter(Number.isFinite) ?? []),
    ),
  );
  const note =
    kind === "map"
      ? "Stretched: ends at this map's strongest patch"
      : "Stretched: ends at the strongest patch of all blocks";
  return scale.stretched(most, note);
}
