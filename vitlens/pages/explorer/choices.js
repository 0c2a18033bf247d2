// What is chosen, as the address says it and as Python says it. The view's own state counts blocks by their place.

const HASH_NAMES = ["picture", "token", "block", "head", "class", "baseline", "quantity"];
const QUANTITIES = ["probability", "logit", "rank"];

function toHash(state, facts) {
  const { head, baseline } = state;
  const values = { ...state, block: facts.blocks[state.block], head: head ?? "all", baseline: baseline ?? "none" };
  return "#" + HASH_NAMES.map((name) => `${name}=${values[name]}`).join("&");
}

/** What an address says and is possible; anything else in it is left out. */
function fromHash(hash, facts) {
  const given = new URLSearchParams(hash.slice(1));
  const chosen = {};
  const whole = (name, n) => {
    const text = given.get(name) ?? "";
    if (/^\d+$/.test(text) && Number(text) < n) chosen[name] = Number(text);
  };
  whole("picture", facts.pictures.length);
  whole("token", facts.prefix.length + facts.grid[0] * facts.grid[1]);
  whole("head", facts.n_heads);
  whole("class", facts.n_classes);
  whole("baseline", facts.n_classes);
  if (given.get("head") === "all") chosen.head = null;
  if (given.get("baseline") === "none") chosen.baseline = null;
  if (QUANTITIES.includes(given.get("quantity"))) chosen.quantity = given.get("quantity");
  const block = facts.blocks.map(String).indexOf(given.get("block"));
  if (block >= 0) chosen.block = block;
  return chosen;
}

function fromSelection({ wanted_class, baseline_class, block, ...same }, facts) {
  return { ...same, block: facts.blocks.indexOf(block), class: wanted_class, baseline: baseline_class };
}

function toSelection({ picture, token, block, head, class: wanted_class, baseline: baseline_class, marked }, facts) {
  return { picture, token, block: facts.blocks[block], head, wanted_class, baseline_class, marked };
}
