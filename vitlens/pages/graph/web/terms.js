// The words of this page: terms that it explains, and how a node is called.

Object.assign(GLOSSARY, {
  "attribution graph":
    "One picture's run as a linear map between features: attention patterns, scales of norms and gates are frozen, and each MLP is replaced by its features and an error. An edge is what a source adds to a target, exactly.",
  node: "A feature (or neuron) of a block's MLP at a token; what a transcoder misses at a token (an error); a token's embedding or position; or the logit.",
  edge: "What a source adds to a target by itself: its activation times the gradient of the target through all frozen attention, without passing another MLP.",
  effect: "The number of an edge, in units of the target: a logit, or a feature's activation before its threshold. Red raises the target, blue lowers it.",
  influence:
    "That of the logit is 100 %. Each node's influence is shared among its sources by the magnitudes of their edges, and so on back to what enters the model. Opposite signs do not cancel.",
  share: "The magnitude of an edge over the magnitudes of all edges into the same target. Of nodes that stand for several, the mean by influence.",
  "what MLPs add besides": "What an MLP writes and its features do not: the transcoder's error. The graph cannot say why it is what it is.",
  "through heads":
    "Each path of an edge is counted at the last head that it passes, which brings it to the target's token; “no head”: it stays at its token. Shares are of the magnitudes of what heads bring.",
  "left out": "Features that are active but are no nodes of this graph; a larger n_nodes= makes nodes of them.",
  "classes raised":
    "The feature's decoder direction, read by the model's last norm and classifier as if it were a stream. It ranks classes for one feature; later blocks may change what comes of it.",
});

/** What stands for kinds of nodes. */
const KIND_WORDS = { error: "errors", embed: "patches", pos_embed: "positions", embed_norm: "constants of the first norm" };

/** The name of a node's kind and place, in few letters or in full; `facts.labels` has names of units. */
function nodeName(facts, grid, node, long = false) {
  const { kind, block, number, tokens, group, text } = node;
  if (group) return group.name;
  if (kind === "logit") return long ? text : text.replace(/^logit of /, "");
  const at = tokens.length === 1 && node.single ? ` at ${grid.names(tokens)}` : "";
  if (number >= 0) {
    const label = facts.labels[`${block}.${number}`];
    if (!long) return label || `${number}`;
    return `${facts.unit_kind} ${number} of block ${block}${label ? ` “${cut(label, 40)}”` : ""}${at}`;
  }
  if (kind === "error") return long ? `errors of block ${block}${at}` : "errors";
  return long ? `${{ embed: "patch embeddings", pos_embed: "position embeddings" }[kind] ?? KIND_WORDS[kind] ?? kind}${at}` : (KIND_WORDS[kind] ?? kind);
}
