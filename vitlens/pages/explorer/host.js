// Where the explorer lives: on a page, or in a notebook's output.

/** Plotly from its packed script, kept out of the page's globals. */
async function loadPlotly(bytes) {
  const source = new TextDecoder().decode(await unpack(bytes));
  const module = { exports: {} };
  new Function("module", "exports", "define", source)(module, module.exports, undefined);
  return module.exports;
}

/** The maps first: running plotly's script takes longer than all else. */
async function show(view, source) {
  try {
    const plotly = source.plotly();
    await view.start(new Pictures(view.facts, source.picture), source.selection);
    await new Promise((painted) => setTimeout(painted, 20));
    view.buildCharts(await loadPlotly(plotly));
  } catch (error) {
    (view.find(".status") ?? view.find("footer")).textContent = String(error.message ?? error);
    throw error;
  }
}

function openPage() {
  const text = (id) => document.getElementById(id).textContent;
  const facts = JSON.parse(text("facts"));
  // A frame inside a notebook has no address of its own.
  const view = new ExplorerView(document.getElementById("explorer"), facts, {
    hash: location.protocol !== "about:",
    keys: document,
  });
  view.setEffect(facts.effect);
  show(view, {
    picture: (i) => fromBase64(text(`picture-${i}`)),
    plotly: () => fromBase64(text("plotly")),
    selection: facts.selection,
  });
  document.getElementById("explorer").view = view;
}

function render({ model, el }) {
  const root = el.appendChild(document.createElement("div"));
  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
  const view = new ExplorerView(root, model.get("facts"), {
    keys: root,
    ablate: (replacement) => model.send({ ask: "ablate", replacement }),
    changed(selection) {
      if (same(selection, model.get("selection"))) return;
      model.set("selection", selection);
      model.save_changes();
    },
  });
  const follow = () => {
    if (!same(view.toSelection(), model.get("selection")))
      view.choose(fromSelection(model.get("selection"), view.facts));
  };
  const effect = () => view.setEffect(model.get("effect"));
  model.on("change:selection", follow);
  model.on("change:effect", effect);
  effect();
  show(view, {
    picture: (i) => model.get("pictures")[i],
    plotly: () => model.get("plotly"),
    selection: model.get("selection"),
  });
  return () => {
    model.off("change:selection", follow);
    model.off("change:effect", effect);
  };
}

export default { render };
