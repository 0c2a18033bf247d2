// Plotly's charts: boards of blocks and heads, curves over the blocks, bars.

const CONFIG = { displaylogo: false, displayModeBar: false, showSendToCloud: false, doubleClick: false };

class Chart {
  constructor(Plotly, looks, name, note = "") {
    Object.assign(this, { Plotly, looks });
    this.heading = element("h3", {});
    this.div = element("div", {});
    this.root = element(
      "section",
      { class: "panel chart", "data-chart": name },
      this.heading,
      this.div,
      element("small", {}, note),
    );
  }

  react(title, traces, layout) {
    this.heading.textContent = title;
    this.div.classList.add("plotly-graph-div"); // As plotly.py's own pages call it; only once there is a figure.
    const { theme } = this.root.closest("[data-theme]").dataset;
    const axis = { fixedrange: true };
    const size = parseFloat(getComputedStyle(this.root).fontSize);
    this.Plotly.react(
      this.div,
      traces,
      {
        template: this.looks.themes[theme].template,
        margin: { l: 44, r: 12, t: 8, b: 36 },
        ...layout,
        font: { size: 0.86 * size },
        height: (layout.height * size) / 14,
        xaxis: { ...axis, ...layout.xaxis },
        yaxis: { ...axis, ...layout.yaxis },
      },
      CONFIG,
    );
  }

  resize() {
    if (this.div.data) this.Plotly.Plots.resize(this.div);
  }
}

/** Blocks across, heads down, signed; a click chooses both. */
class Board extends Chart {
  constructor(Plotly, looks, name, pick) {
    super(
      Plotly,
      looks,
      name,
      "0 in the middle, ends at this board's largest magnitude; click a cell to choose block and head.",
    );
    this.pick = pick;
  }

  draw(title, z, blocks, chosen) {
    const end = largest(z.flat()) || 1;
    const [x0, x1] = [chosen.block - 0.5, chosen.block + 0.5];
    const [y0, y1] = chosen.head === null ? [-0.5, z.length - 0.5] : [chosen.head - 0.5, chosen.head + 0.5];
    const trace = {
      type: "heatmap",
      z,
      zmin: -end,
      zmax: end,
      zmid: 0,
      xgap: 1,
      ygap: 1,
      x: blocks.map((_, i) => i),
      y: z.map((_, head) => head),
      customdata: z.map((row, head) => row.map((_, i) => `L${blocks[i]}H${head}`)),
      hovertemplate: "%{customdata}: %{z:+.4f}<extra></extra>",
      colorbar: { thickness: 10, tickformat: "~g", outlinewidth: 0 },
    };
    const every = Math.ceil(blocks.length / 12);
    const ticks = blocks.map((_, i) => i).filter((i) => i % every === 0);
    this.react(title, [trace], {
      height: 120 + 17 * Math.max(6, Math.min(32, z.length)),
      xaxis: {
        title: { text: "block" },
        tickvals: ticks,
        ticktext: ticks.map((i) => `L${blocks[i]}`),
        showgrid: false,
        zeroline: false,
      },
      yaxis: {
        title: { text: "head" },
        autorange: "reversed",
        dtick: Math.ceil(z.length / 12),
        showgrid: false,
        zeroline: false,
      },
      shapes: [{ type: "rect", x0, x1, y0, y1, line: { color: this.looks.chosen, width: 3 } }],
    });
    if (!this.listening) {
      this.listening = true;
      this.div.on("plotly_click", ({ points: [point] }) => this.pick(point.x, point.y));
    }
  }
}

/** The ranks that are ticks; rank 0, the best, stands at 1 of the logarithmic axis. */
const RANK_TICKS = [0, 1, 2, 5, 10, 100, 1000, 10000];

/** Curves over the blocks; ranks on a logarithmic axis, the best at the top. */
class Trajectory extends Chart {
  draw(title, curves, quantity, blocks, block) {
    const rank = quantity === "rank";
    const traces = curves.map(({ name, values, width, dash, colour }) => ({
      type: "scatter",
      mode: "lines+markers",
      name: plain(cut(name)),
      x: blocks.map((_, i) => i),
      y: rank ? values.map((value) => value + 1) : values,
      customdata: values,
      line: { width, dash, color: colour },
      marker: { size: width + 2 },
      hovertemplate: `%{fullData.name}<br>${quantity} %{customdata:.5~g}<extra></extra>`,
    }));
    this.react(title, traces, {
      xaxis: {
        title: { text: "after block" },
        tickvals: blocks.map((_, i) => i),
        ticktext: blocks.map((b) => `L${b}`),
      },
      yaxis: {
        title: { text: rank ? "rank (0 is best)" : quantity },
        ...(rank && { tickvals: RANK_TICKS.map((value) => value + 1), ticktext: RANK_TICKS.map(String) }),
        type: rank ? "log" : "linear",
        autorange: rank ? "reversed" : true,
        rangemode: quantity === "probability" ? "tozero" : "normal",
      },
      legend: { orientation: "h", y: -0.2 },
      hovermode: "closest",
      height: 470,
      shapes: [
        {
          type: "line",
          x0: block,
          x1: block,
          y0: 0,
          y1: 1,
          yref: "paper",
          line: { color: this.looks.neutral, width: 1, dash: "dot" },
        },
      ],
    });
  }
}

class EffectBars extends Chart {
  draw(effect) {
    this.root.hidden = !effect;
    if (!effect) return;
    const trace = {
      type: "bar",
      x: effect.cells,
      y: effect.shift,
      marker: { color: this.looks.lines[0] },
      hovertemplate: "%{x}: %{y:+.4f}<extra></extra>",
    };
    this.react(effect.title, [trace], {
      height: 240,
      xaxis: { type: "category" },
      yaxis: { title: { text: "change of the logit" } },
    });
  }
}
