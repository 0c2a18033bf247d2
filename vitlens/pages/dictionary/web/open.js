// Where the page of features lives: in a file of its own, or in a notebook's output.

async function startFeatures(root, facts, bytes, crops, options) {
  try {
    const tensors = readSafetensors(await unpack(bytes));
    const texts = crops ? crops.trim().split("\n") : [];
    const view = new FeatureBrowser(root, facts, new Features(tensors, facts), new Crops(tensors.crop_numbers.data, texts, facts.names), options);
    root.view = view;
    view.start();
    return view;
  } catch (error) {
    root.append(element("p", { class: "warning", role: "alert" }, String(error.message ?? error)));
    throw error;
  }
}

function openFeatures() {
  const text = (id) => document.getElementById(id).textContent;
  const root = document.getElementById("explorer");
  // A frame inside a notebook has no address of its own.
  const options = { page: location.protocol !== "about:", keys: document };
  startFeatures(root, JSON.parse(text("facts")), fromBase64(text("numbers")), text("crops"), options);
}

function renderFeatures({ model, el }) {
  const root = el.appendChild(document.createElement("div"));
  // In JupyterLab single keys are commands about the cell.
  root.addEventListener("keydown", (event) => event.ctrlKey || event.metaKey || event.stopPropagation());
  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
  const send = (name, value) => {
    if (same(value, model.get(name))) return;
    model.set(name, value);
    model.save_changes();
  };
  const facts = { ...model.get("facts"), selection: model.get("selection"), labels: model.get("labels") };
  let view = null;
  const follow = () => {
    const { feature, picture } = model.get("selection");
    if (view && (feature !== view.state.feature || picture !== view.state.picture)) view.choose({ feature, picture });
  };
  const relabel = () => view && !same(view.labels.asObject(), model.get("labels")) && view.labels.replace(model.get("labels"));
  const steered = () => view?.doses.setAnswer(model.get("steered"));
  startFeatures(root, facts, model.get("numbers"), model.get("crops"), {
    keys: root,
    changed: ({ feature, picture }) => send("selection", { feature, picture }),
    labelled: (labels) => send("labels", labels),
    ask: (feature, doses) => model.send({ ask: "steer", feature, doses }),
  }).then((made) => {
    view = made;
    send("labels", view.labels.asObject());
  });
  const listened = [["selection", follow], ["labels", relabel], ["steered", steered]];
  for (const [name, act] of listened) model.on(`change:${name}`, act);
  return () => {
    view?.life.abort();
    for (const [name, act] of listened) model.off(`change:${name}`, act);
  };
}

export default { render: renderFeatures };
