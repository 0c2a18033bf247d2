// Panels, and what can be taken from each: a picture for a paper with a caption, and its numbers.

/**
 * A panel with a question as its heading and the field's term behind it. `source`: {table() → rows, caption() → text,
 * name() → what its files are called after, drawing() → SVG that stands alone; without it the panel itself is drawn}.
 */
function panel(name, question, { term = null, source = null, extra = [], id = null }, ...content) {
  const root = element(
    "section",
    { class: `panel ${name}`, "data-panel": name, id, "aria-label": question, tabindex: -1 },
    element(
      "header",
      {},
      element("h2", {}, question, term ? " " : null, term),
      element("div", { class: "extra" }, ...extra, source ? menu(name, { drawing: () => drawingOf(root), ...source }) : null),
    ),
    ...content,
  );
  return root;
}

function menu(name, source) {
  const told = element("small", { role: "status" });
  const details = element(
    "details",
    { class: "menu" },
    element("summary", { "aria-label": `take from “${name}”`, title: "copy or save" }, "⋯"),
  );
  const entry = (label, act) =>
    button(label, async () => {
      try {
        told.textContent = (await act()) ?? "done";
      } catch (error) {
        told.textContent = `That did not work: ${error.message}`;
      }
    });
  const file = (kind) => `vitlens-${source.name()}-${name}.${kind}`;
  const drawing = () => finished(source, details.closest(".vitlens"));
  const entries = [
    entry("copy picture", async () => {
      await navigator.clipboard.write([new ClipboardItem({ "image/png": await toPng(drawing()) })]);
      return "copied";
    }),
    entry("save PNG", async () => save(await toPng(drawing()), file("png"))),
    entry("save SVG", () =>
      save(new Blob([new XMLSerializer().serializeToString(drawing())], { type: "image/svg+xml" }), file("svg")),
    ),
    entry("copy numbers", async () => {
      const rows = source.table().map((row) => row.join("\t"));
      await navigator.clipboard.writeText(`${rows.join("\n")}\n`);
      return "copied";
    }),
    entry("save numbers (CSV)", () => save(new Blob([toCsv(source)], { type: "text/csv" }), file("csv"))),
  ];
  details.append(element("div", { class: "entries" }, ...entries, told));
  details.addEventListener(
    "focusout",
    ({ relatedTarget }) => details.contains(relatedTarget) || relatedTarget === null || (details.open = false),
  );
  details.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    details.open = false;
  });
  return details;
}

function save(blob, name) {
  const link = element("a", { download: name, href: URL.createObjectURL(blob) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  return `saved as ${name}`;
}

function toCsv(source) {
  const cell = (value) => (typeof value === "number" ? String(value) : `"${String(value).replaceAll('"', '""')}"`);
  const rows = source.table().map((row) => row.map(cell).join(","));
  return [`# ${source.caption().replaceAll("\n", " ")}`, ...rows].join("\n") + "\n";
}

// ---- Drawings that stand alone --------------------------------------------------------------------------------------

const PAPER = "font-family: Inter, 'Helvetica Neue', Arial, sans-serif; fill: #333a47";

/** The drawing on white, with the caption below; always in the light theme, as paper is. */
function finished(source, themed) {
  const theme = themed.dataset.theme;
  themed.dataset.theme = "light";
  const copy = source.drawing();
  themed.dataset.theme = theme;
  const [width, height] = ["width", "height"].map((name) => Number(copy.getAttribute(name)));
  const lines = wrapped(source.caption(), Math.floor((width - 16) / 5.6));
  const whole = drawn("svg", { xmlns: SVG_SPACE, width: width + 16, height: height + 22 + 14 * lines.length });
  whole.setAttribute("viewBox", `0 0 ${whole.getAttribute("width")} ${whole.getAttribute("height")}`);
  copy.setAttribute("x", 8);
  copy.setAttribute("y", 8);
  const style = `font-size: 11px; ${PAPER}`;
  whole.append(
    drawn("rect", { width: "100%", height: "100%", fill: "#fff" }),
    copy,
    ...lines.map((line, i) => drawn("text", { x: 8, y: height + 24 + 14 * i, style }, line)),
  );
  return whole;
}

function wrapped(text, most) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = `${lines.at(-1)} ${word}`.trim();
    if (line.length > most) lines.push(word);
    else lines[lines.length - 1] = line;
  }
  return lines;
}

async function toPng(drawing) {
  const [width, height] = ["width", "height"].map((name) => Number(drawing.getAttribute(name)));
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(drawing))}`;
  await image.decode();
  const canvas = element("canvas", { width: 2 * width, height: 2 * height });
  const brush = canvas.getContext("2d");
  brush.scale(2, 2);
  brush.drawImage(image, 0, 0, width, height);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

/** The stage as a drawing: picture, map, artefacts, selection, numbers at the edges, and the ends of its scale. */
function stageDrawing({ grid, image, size, shown }) {
  const [left, top, width] = [22, 18, 480];
  const height = Math.round((width * size[1]) / size[0]);
  const [cw, ch] = [width / grid.columns, height / grid.rows];
  const drawing = drawn("svg", { width: left + width, height: top + height + 34 });
  drawing.append(
    drawn("image", {
      href: image.src,
      x: left,
      y: top,
      width,
      height,
      preserveAspectRatio: "none",
      style: `filter: ${getComputedStyle(image).filter}`,
    }),
  );
  const { values, scale, opacity, threshold, outliers, selected } = shown;
  for (let token = grid.nPrefix; token < grid.nTokens; token++) {
    const [row, column] = grid.place(token);
    const box = { x: left + column * cw, y: top + row * ch, width: cw, height: ch };
    const { colour, alpha } = values
      ? glaze(values[token], scale, { opacity: opacity / 100, threshold: threshold / 100 })
      : { alpha: 0 };
    if (alpha > 0)
      drawing.append(drawn("rect", { ...box, style: `fill: rgb(${colour}); fill-opacity: ${alpha.toFixed(3)}` }));
    if (outliers[token - grid.nPrefix])
      drawing.append(
        drawn("path", {
          d: `M${box.x} ${box.y + ch}l${cw} ${-ch}m${-cw} ${ch / 2}l${cw / 2} ${-ch / 2}m0 ${ch}l${cw / 2} ${-ch / 2}`,
          style: "stroke: #fff; stroke-width: 1.5; fill: none",
        }),
      );
    if (selected.includes(token))
      drawing.append(drawn("rect", { ...box, style: `fill: none; stroke: ${PINK}; stroke-width: 2` }));
  }
  const every = [1, 2, 5, 10].find((step) => step * Math.min(cw, ch) >= 17) ?? 20;
  const tick = (text, x, y, anchor) => drawn("text", { x, y, "text-anchor": anchor, style: `font-size: 10px; ${PAPER}` }, text);
  for (let i = 0; i < grid.columns; i += every) drawing.append(tick(i, left + (i + 0.5) * cw, top - 5, "middle"));
  for (let i = 0; i < grid.rows; i += every) drawing.append(tick(i, left - 5, top + (i + 0.5) * ch + 4, "end"));
  if (!values) return drawing;
  for (let i = 0; i < 60; i++) {
    const value = scale.at(scale.both ? i / 29.5 - 1 : i / 59);
    drawing.append(
      drawn("rect", {
        x: left + i * 4,
        y: top + height + 8,
        width: 4,
        height: 9,
        style: `fill: rgb(${scale.colour(value)}); fill-opacity: ${Math.abs(scale.strength(value)).toFixed(3)}`,
      }),
    );
  }
  for (const [place, text] of scale.ticks())
    drawing.append(
      tick(text, left + 240 * place, top + height + 29, place === 0 ? "start" : place === 1 ? "end" : "middle"),
    );
  return drawing;
}
