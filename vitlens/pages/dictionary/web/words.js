// The words of this page: terms that it explains, how a feature and a share are written.

Object.assign(GLOSSARY, {
  density: "The share of tokens on which a feature is active, that is above 0.",
  locality:
    "Whether a feature is active in one region of a picture (near 1) or in scattered patches (near 0): Moran's I, the mean over pictures in which it is active on at least 5 patches and not on nearly all.",
  "largest activation": "How strong the feature is where it is strongest. Activations of two features are not in one unit.",
  "decoder direction":
    "What a feature adds to the model's activation: its row of the decoder. Two features with nearly the same direction (a cosine near 1) write nearly the same.",
  "classes raised":
    "The feature's decoder direction, read by the model's last norm and classifier as if it were a stream. It ranks classes for one feature; later blocks may change what comes of it.",
  dose: "The feature's activation is multiplied by the dose at every token and the model goes on from there. 0 removes the feature, 1 changes nothing, 2 doubles it.",
  worth:
    "The feature's activation times the gradient of the answer's logit, summed over tokens: an estimate of what the logit loses without the feature.",
});

/** A share of tokens: two digits also where it is small. */
function smallShare(share) {
  if (!share) return "0\u00a0%";
  return share < 0.001 ? `${number(Number((100 * share).toPrecision(2)))}\u00a0%` : percent(share);
}

/** "feature 12", with its label where it has one. */
function featureName(feature, label) {
  return `feature ${feature}${label ? ` “${cut(label, 40)}”` : ""}`;
}

/** The classes that a feature's direction raises and lowers most, as lists. */
function classesMoved(view, { raised, lowered }) {
  const list = (title, pairs) =>
    element(
      "div",
      {},
      element("h4", {}, title),
      element("ul", {}, ...pairs.map(([index, value]) => element("li", {}, element("span", { title: view.className(index, true) }, view.className(index)), element("output", {}, signed(value))))),
    );
  return element(
    "div",
    {},
    element("h3", {}, view.tip.term("classes raised", "Classes that it raises and lowers")),
    element("div", { class: "reads" }, list("raises most", raised), list("lowers most", lowered)),
  );
}
