// The field's terms: each is told where it stands, when the pointer or the focus is on it.

const GLOSSARY = {
  patch: "One square of the picture, named by its row and column, both counted from 0 at the upper left.",
  token: "One vector that the model works on: one for each patch, and prefix tokens such as the class token.",
  "class token": "A token that belongs to no patch; most models read their answer from it.",
  "token mask":
    "A heatmap from gradients: what the class gains while each patch enters the sequence, averaged on the way from none to all.",
  heatmap: "A number for every patch that says how much it counts for a class, by one method.",
  "removal curve":
    "The probability of the class while patches are really taken out, the most important by a map first. A good map falls below random orders.",
  "single removal":
    "The model runs once without one patch, head or MLP; what the logit loses is what its removal costs. Also called single ablation.",
  "attribution patching": "An estimate of single removals from one gradient; good where effects are small.",
  attention: "The weights with which a token reads from all tokens; they add up to 100 % in each head.",
  "class lens":
    "A token's stream after a block, read by the model's last norm and classifier as if it were the last. A reading, not a location.",
  "direct logit attribution":
    "What one part adds to the logit of the class on the direct way, exact. What later parts make of it is not counted.",
  logit: "What the classifier gives a class, before a softmax or sigmoid makes it a probability: a step of +1 multiplies the odds by 2.7.",
  "cosine similarity": "How alike two streams are in direction: 1 the same, 0 unrelated, −1 opposite.",
  "principal components":
    "The directions along which the streams of all patches of this page's pictures differ most; artefact tokens are left out.",
  "attention sink":
    "A token that gets much of a head's attention in most pictures. A no-op sink writes next to nothing, a broadcast sink hands one vector to all tokens.",
  "artefact token":
    "A patch whose stream has an unusually large norm; it often holds no picture content but is used as a store. It is hatched.",
  "residual stream": "The vector of a token that all blocks read from and add to.",
  "dictionary feature":
    "A direction that a sparse dictionary (a sparse autoencoder or transcoder) has learned; it is active on few tokens.",
  "activation patching":
    "A part of this picture's run is replaced by the same part of another picture's run; what changes is that part's doing.",
  MLP: "The second half of a block: it works on each token alone.",
  head: "One of the parts of a block that move information between tokens; L9H3 is head 3 of block 9.",
};

/** The one box that tells something; it lies over the page and moves nothing. */
class Tip {
  constructor(root) {
    this.box = element("div", { class: "tip", role: "tooltip", hidden: true });
    root.append(this.box);
  }

  /** Lines of text beside a place of the window. */
  show(lines, x, y) {
    this.box.replaceChildren(...lines.filter(Boolean).map((line) => element("div", {}, line)));
    this.box.hidden = false;
    const { width, height } = this.box.getBoundingClientRect();
    const { clientWidth } = document.documentElement;
    const left = x + 14 + width > clientWidth - 4 ? x - width - 14 : x + 14;
    const top = y + 14 + height > innerHeight - 4 ? y - height - 14 : y + 14;
    Object.assign(this.box.style, { left: `${Math.max(4, left)}px`, top: `${Math.max(4, top)}px` });
  }

  hide() {
    this.box.hidden = true;
  }

  /** Tells `lines(event)` while the pointer is on something; null tells nothing. */
  over(target, lines) {
    target.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch") return;
      const found = lines(event);
      if (found) this.show(found, event.clientX, event.clientY);
      else this.hide();
    });
    for (const end of ["pointerleave", "pointerdown"]) target.addEventListener(end, () => this.hide());
  }

  /** A term of the field that tells its meaning. */
  term(name, label = name) {
    const meaning = GLOSSARY[name];
    const tell = ({ currentTarget }) => {
      const box = currentTarget.getBoundingClientRect();
      this.show([meaning], box.left, box.bottom - 8);
    };
    return button(label, tell, {
      class: "term",
      "aria-label": `${label}: ${meaning}`,
      onpointerenter: tell,
      onfocus: tell,
      onpointerleave: () => this.hide(),
      onblur: () => this.hide(),
    });
  }
}
