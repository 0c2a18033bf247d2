// Where the page of a graph lives: in a file of its own, or in a frame of a notebook.

async function openGraph() {
  const text = (id) => document.getElementById(id).textContent;
  const root = document.getElementById("explorer");
  try {
    const facts = JSON.parse(text("facts"));
    const tensors = readSafetensors(await unpack(fromBase64(text("numbers"))));
    const crops = new Crops(tensors.crop_numbers?.data ?? [], text("crops").trim().split("\n"), facts.names);
    // A frame inside a notebook has no address of its own.
    root.view = new GraphBrowser(root, facts, tensors, crops, { page: location.protocol !== "about:", keys: document });
    root.view.start();
  } catch (error) {
    root.append(element("p", { class: "warning", role: "alert" }, String(error.message ?? error)));
    throw error;
  }
}
