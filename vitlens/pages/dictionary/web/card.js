// The card of one feature: its label, where it is strongest, examples from strong to weak, classes, and features like it.

/** Moran's I in words. */
const localityTold = (value) =>
  `${number(value)}: ${value > 0.5 ? "in one region" : value > 0.2 ? "in regions" : "in scattered patches"}`;

class DictionaryCard {
  /** `events`: pick(feature), label(feature, text). */
  constructor(view, events) {
    Object.assign(this, { view, events, kind: "close" });
    this.name = element("input", {
      type: "text",
      class: "label-field",
      maxlength: 1000,
      placeholder: "What does it react to? Type a label.",
      "aria-label": "label of this feature",
      autocomplete: "off",
      onchange: ({ target }) => events.label(this.feature, target.value),
      onkeydown: (event) => {
        event.stopPropagation();
        if (event.key === "Enter" || event.key === "Escape") event.target.blur();
      },
    });
    this.views = segmented("how much of each picture is shown", VIEWS, (kind) => {
      this.kind = kind;
      this.draw(this.at);
    });
    this.body = element("div", { class: "card" });
    this.root = element("div", { class: "card", "data-card": "feature" }, this.name, this.body);
  }

  draw(at) {
    this.at = at;
    const { features, feature, grid, facts } = at;
    const { crops, tip, labels } = this.view;
    if (this.feature !== feature || document.activeElement !== this.name) this.name.value = labels.get(feature);
    this.feature = feature;
    press(this.views, this.kind);
    const tops = features.examples("top", feature);
    const levels = features.examples("level", feature);
    this.facts = [
      ["density", `active on ${smallShare(features.density[feature])} of ${facts.n_tokens.toLocaleString("en")} tokens`],
      ["pictures", `in ${features.tensors.n_active.data[feature].toLocaleString("en")} of ${facts.n_images.toLocaleString("en")}`],
      ["largest activation", number(features.largest[feature])],
      ["locality", Number.isFinite(features.locality(feature)) ? localityTold(features.locality(feature)) : "too few pictures have a map of it"],
    ];
    if (!features.active[feature]) {
      this.body.replaceChildren(
        element("p", { class: "note" }, `Feature ${feature} is active on none of these pictures: it is a dead feature here.`),
        this.near(feature),
      );
      return;
    }
    this.body.replaceChildren(
      element(
        "dl",
        { class: "facts" },
        ...this.facts.map(([name, value]) =>
          element("div", {}, element("dt", {}, GLOSSARY[name] ? tip.term(name) : name), element("dd", {}, value)),
        ),
      ),
      element("h3", {}, "Where it is strongest"),
      element("p", { class: "note" }, "The strongest token of each picture is framed; below it is the activation."),
      exampleList(crops, grid, tops, this.kind, tip),
      element("h3", {}, "From strong to weak"),
      element(
        "p",
        { class: "note" },
        "Pictures drawn from all in which it is active, with the share of these in which it is weaker. A clear feature shows the same thing in the first and in the last.",
      ),
      exampleList(crops, grid, levels, this.kind, tip, facts.levels.map((level) => `${Math.round(100 * level)}\u00a0%`)),
      element("h3", {}, "How strong it is when it is active"),
      element("p", { class: "note" }, "Number of tokens for each activation; the height is logarithmic."),
      histogram(features.histogram(feature), features.largest[feature]),
      this.classes(feature),
      this.near(feature),
    );
  }

  classes(feature) {
    const found = this.at.features.classes(feature);
    if (!found) return element("p", { class: "note" }, "This dictionary does not write to the residual stream, so its features have no classes of their own.");
    return classesMoved(this.view, found);
  }

  near(feature) {
    const { features } = this.at;
    const { labels, tip } = this.view;
    return element(
      "div",
      {},
      element("h3", {}, tip.term("decoder direction", "Features with the nearest direction")),
      element(
        "ul",
        { class: "near" },
        ...features.nearest(feature).map(([id, cosine]) =>
          element(
            "li",
            {},
            button(cut(featureName(id, labels.get(id)), 40), () => this.events.pick(id), { class: "link", "data-feature": id }),
            element("output", {}, `cosine ${number(cosine)}`),
          ),
        ),
      ),
    );
  }

  table() {
    const { features, feature } = this.at;
    const examples = (kind) => features.examples(kind, feature).filter(Boolean).map(({ image, token, value }) => [kind, image, token, value]);
    return [["examples", "picture", "token", "activation"], ...examples("top"), ...examples("level")];
  }
}
