// What is chosen on the page of features, and how the address says it.

const firstChoices = (facts) => ({ feature: facts.selection?.feature ?? 0, picture: facts.selection?.picture ?? 0, tokens: [] });

/** The choices, changed and mended. */
function nextChoices(state, changes, { n, facts, nTokens }) {
  const next = { ...state, ...changes };
  if (!(Number.isInteger(next.feature) && next.feature >= 0 && next.feature < n)) next.feature = state.feature;
  if (!facts.pictures[next.picture]) next.picture = 0;
  next.tokens = [...new Set(next.tokens)].filter((token) => token < nTokens).sort((one, other) => one - other);
  return next;
}

const choicesToHash = ({ feature, picture, tokens }) => `#feature=${feature}&picture=${picture}&tokens=${tokens.join(".") || "none"}`;

/** What an address says; anything else in it is left out. */
function choicesFromHash(hash) {
  const given = new URLSearchParams(hash.slice(1));
  const found = {};
  for (const name of ["feature", "picture"]) if (/^\d+$/.test(given.get(name) ?? "")) found[name] = Number(given.get(name));
  const tokens = given.get("tokens");
  if (tokens === "none") found.tokens = [];
  else if (/^\d+(\.\d+)*$/.test(tokens ?? "")) found.tokens = tokens.split(".").map(Number);
  return found;
}
