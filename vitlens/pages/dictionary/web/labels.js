// Labels that the reader types: kept in the browser where it allows that, saved to a file, and read from one.

class Labels {
  /** `given` are those that the page came with; where labels are kept in the browser, what was typed there goes before them. */
  constructor(given, dictionary, keeps, changed) {
    Object.assign(this, { dictionary, keeps, changed, key: `vitlens labels ${dictionary.fingerprint}` });
    this.texts = new Map(Object.entries(given ?? {}).map(([feature, text]) => [Number(feature), text]));
    for (const [feature, text] of Object.entries(this.stored())) this.put(Number(feature), text);
  }

  get(feature) {
    return this.texts.get(feature) ?? "";
  }

  put(feature, text) {
    const trimmed = String(text).trim();
    if (trimmed) this.texts.set(feature, trimmed);
    else this.texts.delete(feature);
  }

  /** One label is typed; an empty text takes it away. */
  set(feature, text) {
    if (this.get(feature) === text.trim()) return;
    this.put(feature, text);
    this.store({ ...this.stored(), [feature]: this.get(feature) });
    this.changed();
  }

  /** All labels are replaced, as Python does. */
  replace(texts) {
    this.texts = new Map(Object.entries(texts).map(([feature, text]) => [Number(feature), text]));
    this.changed();
  }

  asObject() {
    return Object.fromEntries([...this.texts].sort((one, other) => one[0] - other[0]));
  }

  // ---- The browser's own store: a page opened from a file, or in a frame, may have none ----

  stored() {
    if (!this.keeps) return {};
    try {
      const found = JSON.parse(localStorage.getItem(this.key) ?? "{}");
      return found && typeof found === "object" && !Array.isArray(found) ? found : {};
    } catch {
      return {};
    }
  }

  store(texts) {
    if (!this.keeps) return;
    try {
      localStorage.setItem(this.key, JSON.stringify(texts));
    } catch {
      // They stay until the page is closed; the button saves them.
    }
  }

  // ---- Files ----

  toText() {
    const { fingerprint, source, hook } = this.dictionary;
    const document = { kind: "vitlens feature labels", dictionary: fingerprint, source, hook, labels: this.asObject() };
    return `${JSON.stringify(document, null, 1)}\n`;
  }

  /** Adds the labels of a file; returns what to tell the reader. */
  read(text) {
    let found = null;
    try {
      found = JSON.parse(text);
    } catch {
      return "This file is no JSON: choose one that this page saved.";
    }
    if (found?.kind !== "vitlens feature labels" || typeof found.labels !== "object" || found.labels === null)
      return "This file holds no labels: choose one that this page saved.";
    if (found.dictionary !== this.dictionary.fingerprint)
      return `These labels are of another dictionary (${found.source || "without a name"}).`;
    const known = Object.entries(found.labels).filter(
      ([feature, label]) => /^\d+$/.test(feature) && Number(feature) < this.dictionary.n_features && typeof label === "string",
    );
    for (const [feature, label] of known) this.put(Number(feature), label);
    this.store({ ...this.stored(), ...Object.fromEntries(known) });
    this.changed();
    return `${count(known.length, "label")} read.`;
  }
}
