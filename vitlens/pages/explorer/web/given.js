// Panels of what a page can be given besides its pictures: a dictionary of features, and one more picture.

/** {feature, swap}: the panels that this page has. */
function givenPanels(panels, make, source) {
  const { view } = panels;
  const { tip, grid, facts } = view;
  const found = {};
  if (facts.dictionary) {
    panels.feature = new FeatureCard(grid, {
      pick: (feature) => view.choose({ feature, layer: "feature" }),
      pickToken: (token, add) => view.select([token], add),
    });
    panels.subtitles.feature = element("p", { class: "subtitle" });
    found.feature = make(
      "feature",
      "Which features are active?",
      {
        term: bracket(tip.term("dictionary feature")),
        extra: [panels.feature.orders],
        source: source(panels.feature, () => "Features of a dictionary, the strongest first."),
      },
      panels.subtitles.feature,
      panels.feature.root,
    );
  }
  if (facts.pictures.some(({ swap }) => swap)) {
    panels.swap = new SwapCard(tip, view.labels, facts, {
      pickPart: (block, head) => view.choose({ block, head }),
      pickToken: (token) => view.choose({ tokens: [token], layer: "swap" }),
    });
    found.swap = make(
      "swap",
      "What does the other picture change?",
      {
        term: bracket(tip.term("activation patching")),
        source: source(panels.swap, () => "Share of the way to the other picture's decision."),
      },
      panels.swap.root,
    );
  }
  return found;
}

function drawGiven(panels, at) {
  const { view, all, feature, swap } = panels;
  const { picture, baseline, block, head, tokens } = at.state;
  const about = [picture, at.choice.class, baseline];
  if (feature) {
    all.feature.hidden = !at.measured.tensors.feature_ids;
    const { source, n_features, where, method } = at.facts.dictionary;
    const writes = method === "direct" ? "direct logit attribution" : "estimated by gradient";
    panels.subtitles.feature.textContent =
      `The strongest of ${n_features.toLocaleString("en")} features of the dictionary ${source} ${where}: what each writes ` +
      `to the logit of ${at.names.choice} (${writes}), and what its removal costs. A click lays its map over the picture.`;
    if (!all.feature.hidden) view.once("feature", [...about, at.state.feature, tokens], () => feature.draw(at));
  }
  if (swap) {
    all.swap.hidden = !at.measured.tensors.swap_logits;
    if (!all.swap.hidden) view.once("swap", [...about, block, head, tokens], () => swap.draw(at));
  }
}
