// Features of a dictionary: what is active on the picture, where, what it writes to the class and what its removal costs.

/** The features of a picture that the page has: [{place, id, peak, writes, costs}], numbers of the choice or null. */
function featuresOf(measured, choice) {
  const { feature_ids, feature_maps_scale } = measured.tensors;
  if (!feature_ids) return [];
  const n = feature_ids.shape[0];
  const stored = measured.stores(choice);
  const of = (name, place) =>
    stored && measured.tensors[name] ? measured.of(choice, (index) => measured.tensors[name].data[measured.classes.indexOf(index) * n + place]) : null;
  return Array.from(feature_ids.data, (id, place) => ({
    place,
    id,
    peak: feature_maps_scale.data[place],
    writes: of("feature_writes", place),
    costs: of("feature_costs", place),
  }));
}

/** The activation of a feature at every token; null where the page has it not for this picture. */
function featureMap(measured, id) {
  const place = measured.tensors.feature_ids?.data.indexOf(id) ?? -1;
  if (place < 0) return null;
  const { feature_maps, feature_maps_scale } = measured.tensors;
  const unit = feature_maps_scale.data[place] / 32767;
  return Float64Array.from({ length: measured.nTokens }, (_, token) => feature_maps.data[place * measured.nTokens + token] * unit);
}

/** The feature on show: the chosen one, or the most active of the picture. */
const shownFeature = ({ measured, state }) => state.feature ?? measured.tensors.feature_ids?.data[0] ?? null;

const FEATURE_ORDERS = [
  ["peak", "most active"],
  ["writes", "writes most"],
  ["costs", "costs most"],
];

class FeatureCard {
  /** `events`: pick(id), pickToken(token, add). */
  constructor(grid, events) {
    Object.assign(this, { grid, events, order: "peak", rows: [] });
    this.orders = segmented("which features come first", FEATURE_ORDERS, (order) => {
      this.order = order;
      this.draw(this.at);
    });
    this.list = element("ol", { class: "features" });
    this.one = element("div", { class: "card" });
    this.root = element("div", { class: "card feature-card", "data-card": "feature" }, this.list, this.one);
  }

  draw(at) {
    this.at = at;
    const { measured, choice } = at;
    const found = featuresOf(measured, choice);
    const known = (order) => found.some((feature) => feature[order] !== null);
    const order = known(this.order) ? this.order : "peak";
    press(this.orders, order);
    for (const each of this.orders.children) each.hidden = !known(each.dataset.value);
    const ranking = ranked(found.map((feature) => feature[order] ?? 0));
    this.rows = ranking.slice(0, 12).map((place) => found[place]);
    const shown = shownFeature(at);
    this.list.replaceChildren(...this.rows.map((feature) => this.row(feature, feature.id === shown, at)));
    this.drawOne(at, found.find(({ id }) => id === shown), shown);
  }

  row({ id, peak, writes, costs }, chosen, at) {
    const label = [`f${id}`, `activation ${number(peak)}`, writes === null ? "" : `writes ${signed(writes)}`];
    return element(
      "li",
      {},
      element(
        "button",
        {
          type: "button",
          "aria-pressed": chosen,
          "data-feature": id,
          "aria-label": label.filter(Boolean).join(", "),
          onclick: () => this.events.pick(id),
        },
        smallMap(at, featureMap(at.measured, id), featureScale(at.measured, id)),
        element("strong", {}, `f${id}`),
        element("small", {}, `${number(peak)} at most`),
        element("small", {}, writes === null ? "" : `writes ${signed(writes)}`),
        element("small", {}, costs === null ? "" : `costs ${signed(costs)}`),
      ),
    );
  }

  drawOne(at, feature, shown) {
    const { measured, names, facts } = at;
    const { method } = facts.dictionary;
    this.facts = [];
    if (!feature) {
      this.one.replaceChildren(
        element("p", { class: "note" }, `Feature ${shown} is not among the strongest of this picture, which this page has.`),
      );
      return;
    }
    const values = featureMap(measured, feature.id);
    const active = values.filter((value) => value > 0).length;
    this.facts = [["active on", `${active} of ${values.length} tokens`]];
    if (feature.writes !== null)
      this.facts.push([
        method === "direct" ? `writes for ${names.choice}` : `worth for ${names.choice} (≈, by gradient)`,
        signed(feature.writes),
      ]);
    if (feature.costs !== null) this.facts.push([COSTS, `${signed(feature.costs)} logits`]);
    const strongest = ranked(values, (value) => value).filter((token) => values[token] > 0).slice(0, 5);
    this.one.replaceChildren(
      element("h3", {}, `Feature ${feature.id}`),
      element(
        "dl",
        { class: "facts" },
        ...this.facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
      ),
      element("h4", {}, "Where it is most active"),
      element(
        "ol",
        { class: "crops" },
        ...strongest.map((token) =>
          element(
            "li",
            {},
            element(
              "button",
              { type: "button", class: "plain", "data-token": token, "aria-label": `${this.grid.name(token)}: ${number(values[token])}`, onclick: (event) => this.events.pickToken(token, event.shiftKey) },
              crop(this.grid, token),
              element("span", {}, number(values[token])),
              element("small", {}, token < this.grid.nPrefix ? "" : this.grid.name(token).slice(6)),
            ),
          ),
        ),
      ),
    );
  }

  table() {
    return [
      ["feature", "largest activation", "writes", COSTS],
      ...this.rows.map(({ id, peak, writes, costs }) => [id, peak, writes ?? "", costs ?? ""]),
    ];
  }
}

/** Each feature has its own scale: on one for all, a feature of artefact tokens would leave the others blank. */
function featureScale(measured, id) {
  const place = measured.tensors.feature_ids.data.indexOf(id);
  return new Scale({
    end: measured.tensors.feature_maps_scale.data[place] || 1,
    note: "activation; ends at this feature's largest on this photo",
  });
}

/** A map on the picture, as small as a thumbnail. */
function smallMap({ measured, grid }, values, scale) {
  const canvas = element("canvas", { width: grid.columns, height: grid.rows });
  const { uri, width, height } = measured.picture;
  if (values) paint(canvas, values.subarray(grid.nPrefix), scale);
  return element(
    "span",
    { class: "small", "data-map": Boolean(values), style: `aspect-ratio: ${width} / ${height}` },
    element("img", { src: uri, alt: "" }),
    canvas,
  );
}
