// Where the page lives: in a file of its own, or in a notebook's output.

/** What was measured is unpacked and drawn; an error is shown in words. */
async function show(view, source) {
  try {
    await view.start(new Pictures(view.facts, source.picture), source.selection);
  } catch (error) {
    view.root.append(element("p", { class: "warning", role: "alert" }, String(error.message ?? error)));
    throw error;
  }
}

function openPage() {
  const text = (id) => document.getElementById(id).textContent;
  const facts = JSON.parse(text("facts"));
  const root = document.getElementById("explorer");
  // A frame inside a notebook has no address of its own.
  const view = new View(root, facts, { page: location.protocol !== "about:", keys: document });
  root.view = view;
  view.setEffect(facts.effect ?? null);
  show(view, { picture: (i) => fromBase64(text(`picture-${i}`)), selection: facts.selection ?? {} });
}

function render({ model, el }) {
  const root = el.appendChild(document.createElement("div"));
  // In JupyterLab single keys are commands about the cell: x would cut it, 1 make a heading of it.
  root.addEventListener("keydown", (event) => event.ctrlKey || event.metaKey || event.stopPropagation());
  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
  const view = new View(root, model.get("facts"), {
    keys: root,
    ablate: (replacement) => model.send({ ask: "ablate", replacement }),
    changed(selection) {
      if (same(selection, model.get("selection"))) return;
      model.set("selection", selection);
      model.save_changes();
    },
  });
  root.view = view;
  const follow = () => {
    if (!same(toSelection(view.state, view.facts), model.get("selection")))
      view.choose(fromSelection(model.get("selection"), view.facts));
  };
  const effect = () => view.setEffect(model.get("effect") ?? null);
  model.on("change:selection", follow);
  model.on("change:effect", effect);
  effect();
  show(view, { picture: (i) => model.get("pictures")[i], selection: model.get("selection") });
  return () => {
    view.life.abort();
    model.off("change:selection", follow);
    model.off("change:effect", effect);
  };
}

export default { render };
