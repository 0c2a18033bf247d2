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
      const { signed: both, unit } = mapOf(measured, state);
      return new Scale({
        end: largest(measured.heatmap(state.heatmap) ?? [1]) || 1,
        signed: both,
        show: both ? signed : number,
        note: `${unit ? `${unit}; ` : ""}${both ? "+ speaks for the class, − against it; " : ""}ends at this map's strongest patch`,
      });
    },
    caption: ({ measured, state, names }) => {
      const { title, class: of } = mapOf(measured, state);
      if (of === null) return [`How much each patch counts (${title}); this method knows no classes.`, "heatmap"];
      return [`How much each patch counts for ${names.choice} (${title}).`, "heatmap"];
    },
    absent: ({ measured, names, state }) =>
      `This map was made for ${names.of(mapOf(measured, state).class)} alone, not for ${names.choice}.`,
  },
  {
    name: "without",
    label: "Removal costs",
    blocks: false,
    present: ({ measured }) => Boolean(measured.tensors.effect_logits),
    values: ({ measured, grid, choice }) => overPatches(measured.lost(choice)?.patches, grid),
    scale: (at) => logits(at, "that its removal costs", " of this photo"),
    caption: ({ names }) => [
      `What the removal of each single patch costs the logit of ${names.choice} (single removal).`,
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
    scale: (at) => logits(at, "written from the patch", ", blocks and heads"),
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
  {
    name: "components",
    label: "Components",
    blocks: true,
    colours: true,
    present: ({ measured, facts }) => facts.measured_together && Boolean(measured.tensors.colours),
    values: ({ measured, grid }, block) => overPatches(measured.colours(block), grid),
    scale: () =>
      new ColourScale("of each component from the 1st to the 99th percentile; all pictures of this page together; every block has its own components"),
    caption: ({ measured, state, names }) => {
      const [red, green, blue] = measured.tensors.colour_shares.data.slice(3 * state.block);
      return [
        `Patches of one colour have similar streams after block ${names.block}: red, green and blue are the first three principal components, with ${percent(red)}, ${percent(green)} and ${percent(blue)} of the variance.`,
        "principal components",
      ];
    },
  },
  {
    name: "feature",
    label: "Feature",
    blocks: false,
    present: ({ measured }) => Boolean(measured.tensors.feature_ids),
    values: (at) => featureMap(at.measured, shownFeature(at)),
    scale: (at) => featureScale(at.measured, shownFeature(at)),
    caption: (at) => [
      `Where feature ${shownFeature(at)} of the dictionary is active.`,
      "dictionary feature",
    ],
    absent: (at) => `Feature ${shownFeature(at)} is not among the strongest of this picture, which this page has.`,
  },
  {
    name: "swap",
    label: "From the other",
    blocks: false,
    present: ({ measured }) => Boolean(measured.tensors.swap_logits),
    values: (at) => overPatches(swapOf(at.measured, swapChoice(at))?.patches, at.grid),
    scale: () => wayScale(),
    caption: ({ names }) => [
      `How far each patch of ${names.otherPicture}, put into this picture one at a time, moves the decision towards that of the other.`,
      "activation patching",
    ],
    absent: ({ names }) => notStored(names),
  },
];

const SUM_OF_SINGLE = "sum of single removals, not a run without all of them";
const layerOf = (name) => LAYERS.find((layer) => layer.name === name);
const oneHead = ({ head }) => (head === "mlp" ? null : head);
/** The heatmap on show: {name, title, signed, class}; class is null where a method knows no classes. */
const mapOf = ({ picture }, { heatmap }) => picture.heatmaps[heatmap] ?? picture.heatmaps[0];
const notStored = ({ choice, listed }) =>
  `Maps and removals of ${choice} are not on this page: it has them for ${listed}. When it is decided and who writes it are shown all the same; a page made with this class (--class, or classes=) has the rest.`;

function overPatches(values, grid) {
  if (!values) return null;
  const all = new Float64Array(grid.nTokens).fill(NaN);
  all.set(values, grid.nPrefix);
  return all;
}

function logits({ measured }, what, where) {
  return new Scale({
    end: measured.ends().patches,
    signed: true,
    show: signed,
    note: `logits ${what}: + speaks for the class, − against it; one scale for all classes${where}`,
  });
}

function shares({ measured }) {
  return new Scale({
    end: 1,
    signed: measured.hasNegativeAttention(),
    show: percent,
    root: 3,
    note: "share of the attention, always 0 to 100 %",
  });
}

/** One scale for two maps beside one another: the one that reaches further. */
function sharedScale(one, other) {
  const wider = other.end > one.end ? other : one;
  return Object.assign(Object.create(Object.getPrototypeOf(wider)), wider, {
    note: `${wider.note.replace("this map's", "the two maps'")}; the same for both pictures`,
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
