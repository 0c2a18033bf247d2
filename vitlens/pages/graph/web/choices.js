// What is chosen on the page of a graph, and how the address says it.

/** Kinds that can be hidden. */
const HIDEABLE = ["error", "embed", "pos_embed"];
const KEY = /^[a-z_]+\d*(\.\d+)*$/;

const firstGraphChoices = (facts) => ({
  picture: 0,
  beside: facts.pictures.length > 1 ? 1 : null,
  node: null,
  tokens: [],
  nodes: 36,
  edges: 120,
  together: true,
  hidden: [],
  pinned: [],
  groups: [],
});

/** The choices, changed and mended. */
function nextGraphChoices(state, changes, facts, nTokens) {
  const next = { ...state, ...changes };
  const n = facts.pictures.length;
  if (!facts.pictures[next.picture]) next.picture = 0;
  if (n < 2 || !facts.pictures[next.beside]) next.beside = null;
  // The picture that was beside it changes places with it.
  if (next.beside === next.picture) next.beside = state.picture === next.picture ? null : state.picture;
  next.tokens = [...new Set(next.tokens)].filter((token) => token < nTokens).sort((one, other) => one - other);
  next.pinned = [...new Set(next.pinned)];
  next.nodes = clamp(next.nodes, 2, 5000);
  next.edges = clamp(next.edges, 0, 20000);
  return next;
}

function graphChoicesToHash({ picture, beside, node, tokens, nodes, edges, together, hidden, pinned, groups }) {
  const list = (values, by = ",") => values.join(by) || "none";
  const groupText = list(groups.map(({ name, members }) => `${encodeURIComponent(name)}:${members.join(",")}`), ";");
  return (
    `#picture=${picture}&beside=${beside ?? "none"}&node=${node ?? "none"}&tokens=${list(tokens, ".")}&nodes=${nodes}&edges=${edges}` +
    `&together=${together ? 1 : 0}&hidden=${list(hidden)}&pinned=${list(pinned)}&groups=${groupText}`
  );
}

/** What an address says; anything else in it is left out. */
function graphChoicesFromHash(hash) {
  const given = new Map(hash.slice(1).split("&").map((part) => [part.slice(0, part.indexOf("=")), part.slice(part.indexOf("=") + 1)]));
  const found = {};
  const keys = (text) => (text === "none" ? [] : text.split(",").filter((key) => KEY.test(key)));
  for (const name of ["picture", "nodes", "edges", "beside"]) if (/^\d+$/.test(given.get(name) ?? "")) found[name] = Number(given.get(name));
  if (given.get("beside") === "none") found.beside = null;
  if (given.has("node")) found.node = KEY.test(given.get("node")) && given.get("node") !== "none" ? given.get("node") : null;
  const tokens = given.get("tokens") ?? "";
  if (tokens === "none") found.tokens = [];
  else if (/^\d+(\.\d+)*$/.test(tokens)) found.tokens = tokens.split(".").map(Number);
  if (/^[01]$/.test(given.get("together") ?? "")) found.together = given.get("together") === "1";
  if (given.has("hidden")) found.hidden = given.get("hidden").split(",").filter((kind) => HIDEABLE.includes(kind));
  if (given.has("pinned")) found.pinned = keys(given.get("pinned"));
  if (given.has("groups")) found.groups = given.get("groups") === "none" ? [] : given.get("groups").split(";").map(groupFromText).filter(Boolean);
  return found;
}

function groupFromText(text) {
  const [name, members] = text.split(":");
  try {
    const found = { name: decodeURIComponent(name).slice(0, 60), members: (members ?? "").split(",").filter((key) => KEY.test(key)) };
    return found.name && found.members.length ? found : null;
  } catch {
    return null;
  }
}
