// Figures are light or dark as the page is: their colours are their templates'.
function paint() {
  const theme = document.body.dataset.mdColorScheme === "slate" ? "dark" : "light";
  for (const figure of document.querySelectorAll(".plotly-graph-div")) {
    Plotly.relayout(figure, { template: themes[theme] });
  }
}

addEventListener("load", () => {
  if (document.body.dataset.mdColorScheme === "slate") paint();
  new MutationObserver(paint).observe(document.body, { attributeFilter: ["data-md-color-scheme"] });
});
