// The top of the page of features: what it is about, and the buttons for labels, undo, keys and theme.

class FeaturesHead {
  constructor(view) {
    this.view = view;
    const { facts } = view;
    this.told = element("output", { class: "note", role: "status" });
    this.file = element("input", {
      type: "file",
      accept: ".json,application/json",
      hidden: true,
      onchange: async ({ target }) => {
        const [file] = target.files;
        if (file) this.told.value = view.labels.read(await file.text());
        target.value = "";
      },
    });
    view.tools = new Tools(view, view.help);
    this.top = element(
      "header",
      { class: "top" },
      element("h1", {}, facts.title),
      element(
        "div",
        { class: "tools" },
        button("save labels", () => this.save(), { title: "as a file, for this page and for feature_labels=" }),
        button("open labels", () => this.file.click(), { title: "a file of labels that this page saved" }),
        this.file,
        ...view.tools.roots(),
      ),
    );
    const { model, weights } = facts.provenance;
    const lines = [
      model,
      `weights ${weights}`,
      `dictionary ${facts.dictionary.source}`,
      count(facts.n_images, "picture"),
      `${facts.grid.join(" × ")} patches`,
    ];
    this.line = element("p", { class: "about" }, ...lines.map((line) => element("span", {}, line)), this.told);
    this.warning = element("div", { class: "warnings" }, ...(facts.warning ? [element("p", { class: "warning", role: "alert" }, `⚠ ${facts.warning}`)] : []));
  }

  roots() {
    return [this.top, this.line, this.warning];
  }

  save() {
    const { labels } = this.view;
    if (!labels.texts.size) this.told.value = "There is no label yet: type one on the card of a feature.";
    else this.told.value = `${count(labels.texts.size, "label")} ${save(new Blob([labels.toText()], { type: "application/json" }), "feature-labels.json")}`;
  }
}
