// What is chosen: as the page keeps it, as the address says it, as Python says it, and how a choice is undone.

/**
 * The page counts blocks by their place among those shown; `head` is a number, null for all heads, or "mlp". What is
 * compared is another picture (`beside`) or another block of the same (`against`).
 */
function firstState(facts) {
  return {
    picture: 0,
    tokens: [],
    block: facts.blocks.length - 1,
    head: null,
    class: null,
    baseline: null,
    layer: facts.layers_default ?? null,
    heatmap: 0,
    quantity: facts.quantities[0],
    board: "direct",
    scale: "fixed",
    opacity: 85,
    threshold: 0,
    beside: null,
    against: null,
    feature: null,
  };
}

const BOARDS = ["direct", "without", "attention"];
const SCALE_KINDS = ["fixed", "blocks", "map"];

/** Whether there is anything to see of a class: the page has some in detail, and of all what is small. */
function isKnown(facts, picture, index) {
  return (
    facts.pictures[picture].classes.includes(index) ||
    (facts.all_classes && Number.isInteger(index) && index < facts.n_classes)
  );
}

/** The choices, changed and mended: without a class that exists each picture shows its own first. */
function changed(state, changes, facts) {
  const next = { ...state, ...changes };
  const { classes } = facts.pictures[next.picture];
  const known = (index) => isKnown(facts, next.picture, index);
  if (!known(next.class)) next.class = null;
  if (!known(next.baseline) || next.baseline === (next.class ?? classes[0])) next.baseline = null;
  if ("beside" in changes && changes.beside !== null) next.against = null;
  else if ("against" in changes && changes.against !== null) next.beside = null;
  if (next.beside === next.picture || !facts.pictures[next.beside]) next.beside = null;
  next.tokens = [...new Set(next.tokens)].sort((one, other) => one - other);
  return next;
}

// ---- The address ----------------------------------------------------------------------------------------------------

const WORDS = { board: BOARDS, scale: SCALE_KINDS };

function toHash(state, facts) {
  const values = {
    ...state,
    block: facts.blocks[state.block],
    against: facts.blocks[state.against],
    head: state.head ?? "all",
    tokens: state.tokens.join(".") || "none",
  };
  return (
    "#" +
    Object.entries(values)
      .map(([name, value]) => `${name}=${value ?? "none"}`)
      .join("&")
  );
}

/** What an address says and is possible; anything else in it is left out. */
function fromHash(hash, facts, layers) {
  const given = new URLSearchParams(hash.slice(1));
  const nTokens = facts.prefix.length + facts.grid[0] * facts.grid[1];
  const chosen = {};
  const whole = (text, n) => (/^\d+$/.test(text ?? "") && Number(text) < n ? Number(text) : null);
  const keep = (name, value) => {
    if (value !== null) chosen[name] = value;
  };
  keep("picture", whole(given.get("picture"), facts.pictures.length));
  keep("head", whole(given.get("head"), facts.n_heads));
  keep("class", whole(given.get("class"), facts.n_classes));
  keep("baseline", whole(given.get("baseline"), facts.n_classes));
  keep("beside", whole(given.get("beside"), facts.pictures.length));
  keep("feature", whole(given.get("feature"), facts.dictionary?.n_features ?? 0));
  keep("heatmap", whole(given.get("heatmap"), facts.pictures[0].heatmaps?.length ?? 0));
  keep("opacity", whole(given.get("opacity"), 101));
  keep("threshold", whole(given.get("threshold"), 101));
  if (given.get("head") === "all") chosen.head = null;
  if (given.get("head") === "mlp") chosen.head = "mlp";
  for (const name of ["class", "baseline", "beside", "against", "feature"]) if (given.get(name) === "none") chosen[name] = null;
  for (const [name, words] of Object.entries({ ...WORDS, quantity: facts.quantities }))
    if (words.includes(given.get(name))) chosen[name] = given.get(name);
  if (layers.includes(given.get("layer"))) chosen.layer = given.get("layer");
  const block = facts.blocks.map(String).indexOf(given.get("block"));
  if (block >= 0) chosen.block = block;
  const against = facts.blocks.map(String).indexOf(given.get("against"));
  if (against >= 0) chosen.against = against;
  const tokens = given.get("tokens");
  if (tokens === "none") chosen.tokens = [];
  else if (tokens) {
    const numbers = tokens.split(".").map((text) => whole(text, nTokens));
    if (!numbers.includes(null)) chosen.tokens = numbers;
  }
  return chosen;
}

// ---- Python ---------------------------------------------------------------------------------------------------------

/** Python has one token, or several that are marked; the page has a set. */
function fromSelection({ picture, token, marked, wanted_class, baseline_class, block, head }, facts) {
  return {
    picture,
    tokens: marked?.length ? marked : token === null || token === undefined ? [] : [token],
    block: facts.blocks.indexOf(block),
    head,
    class: wanted_class,
    baseline: baseline_class,
  };
}

function toSelection(state, facts) {
  const { picture, tokens, block, head } = state;
  const stored = (index) => (isKnown(facts, picture, index) ? index : null);
  return {
    picture,
    token: tokens[0] ?? 0,
    block: facts.blocks[block],
    head: head === "mlp" ? null : head,
    wanted_class: stored(state.class),
    baseline_class: stored(state.baseline),
    marked: tokens.length > 1 ? tokens : [],
  };
}

// ---- Undo -----------------------------------------------------------------------------------------------------------

/** All states that were, in order; on a page the browser's own Back and Forward move through them too. */
class Past {
  constructor(restore, hash) {
    Object.assign(this, { restore, hash, states: [], at: -1 });
    if (!hash) return;
    window.addEventListener("popstate", ({ state }) => {
      if (state?.vitlens === undefined || !this.states[state.vitlens]) return;
      this.at = state.vitlens;
      this.restore(this.states[this.at]);
    });
  }

  /** `replace`: the last state is replaced, as while a slider is drawn. */
  keep(state, address, replace = false) {
    if (JSON.stringify(this.states[this.at]) === JSON.stringify(state)) return;
    const first = this.at < 0;
    if (first || !replace) this.at += 1;
    this.states.splice(this.at, this.states.length, state);
    if (!this.hash) return;
    const write = first || replace ? "replaceState" : "pushState";
    history[write]({ vitlens: this.at }, "", address);
  }

  can(step) {
    return this.at + step >= 0 && this.at + step < this.states.length;
  }

  go(step) {
    if (!this.can(step)) return;
    if (this.hash) history.go(step);
    else this.restore(this.states[(this.at += step)]);
  }
}
