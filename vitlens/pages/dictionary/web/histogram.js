// How often each activation comes: a small histogram with a logarithmic height, so that rare large values are seen.

const [HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT] = [320, 96];

function histogram({ counts, width }, largestValue) {
  const used = Math.max(1, Math.ceil(largestValue / width));
  const shown = [...counts.slice(0, used)];
  const most = Math.log1p(Math.max(...shown, 1));
  const [low, step] = [HISTOGRAM_HEIGHT - 18, HISTOGRAM_WIDTH / used];
  const drawing = drawn("svg", {
    viewBox: `0 0 ${HISTOGRAM_WIDTH} ${HISTOGRAM_HEIGHT}`,
    role: "img",
    "aria-label": `histogram of activations from 0 to ${number(used * width)}`,
  });
  shown.forEach((n, i) => {
    const height = ((low - 4) * Math.log1p(n)) / most;
    const bar = drawn("rect", { x: i * step + 0.5, y: low - height, width: Math.max(1, step - 1), height, class: "bar only" });
    bar.append(drawn("title", {}, `${number(i * width)} to ${number((i + 1) * width)}: ${count(n, "token")}`));
    drawing.append(bar);
  });
  drawing.append(drawn("line", { x1: 0, x2: HISTOGRAM_WIDTH, y1: low, y2: low, class: "grid zero" }));
  for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]])
    drawing.append(
      drawn("text", { x: share * HISTOGRAM_WIDTH, y: HISTOGRAM_HEIGHT - 4, class: "tick", "text-anchor": anchor }, number(share * used * width)),
    );
  return element("div", { class: "histogram drawing" }, drawing);
}
