"""The figures of an evaluation: each measure of all dictionaries side by side, and how often features are on."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vitlens.features.evaluation.result import PRINTED, DictionaryEvaluation
from vitlens.plots.shared.style import COLOURS, NEUTRAL, array, finish, text

#: Measures of a dictionary in words.
MEASURE_WORDS = {
    "explained_variance": "explained variance",
    "l0": "active features per token",
    "dead_share": "share of dead features",
    "dense_share": "share of dense features",
    "kl_sae": "KL from the clean prediction",
    "agreement_sae": "same predicted class",
    "loss_recovered_mean": "loss recovered",
    "morans_i": "Moran's I",
    "monosemanticity": "monosemanticity",
    "class_monosemanticity": "one class (monosemanticity)",
    "probing": "sparse probing",
    "absorption": "absorption",
    "mse": "squared error",
}
N_COLUMNS = 4


def judged_dictionaries(evaluation: DictionaryEvaluation) -> go.Figure:
    """A panel for each measure that a printout names: a dot with its interval for each dictionary."""
    names = evaluation.axes["dictionary"]
    shown = [name for name in PRINTED if name in evaluation.axes["measure"]]
    lines = -(-len(shown) // N_COLUMNS)
    figure = make_subplots(
        lines,
        N_COLUMNS,
        subplot_titles=[MEASURE_WORDS[name] for name in shown],
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.3 / lines,
    )
    labels = [text(name, 24) for name in names]
    for i, measure in enumerate(shown):
        place = evaluation.axes["measure"].index(measure)
        values, low, high = (array(x[:, place]) for x in (evaluation.values, evaluation.low, evaluation.high))
        at = {"row": i // N_COLUMNS + 1, "col": i % N_COLUMNS + 1}
        dots = go.Scatter(
            x=values, y=labels, mode="markers",
            error_x={"array": high - values, "arrayminus": values - low, "thickness": 1.5, "color": NEUTRAL},
            marker={"size": 9, "color": [COLOURS[1]] + [COLOURS[0]] * (len(names) - 1)},
            hovertemplate="%{y}: %{x:.4g}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(dots, **at)
        figure.update_xaxes(nticks=4, **at)
    figure.update_yaxes(autorange="reversed")
    settings = evaluation.settings
    return finish(
        figure,
        "The dictionary, and others at its place",
        f"{text(settings['model'])}, {text(settings['hook'])}, tokens: {text(settings['tokens'])}, "
        f"{settings['pictures']:,} pictures<br>95 % intervals over pictures, where a measure has one",
        height=120 + lines * (70 + 22 * len(names)),
        showlegend=False,
        margin={"l": 110, "r": 20, "t": 120, "b": 40},
    )


def density_histogram(evaluation: DictionaryEvaluation) -> go.Figure:
    """How often features are on, and the measures of the dictionary."""
    alive = evaluation.density[evaluation.density > 0].double().log10()
    figure = go.Figure(
        go.Histogram(
            x=array(alive), nbinsx=40, marker_color=COLOURS[0],
            hovertemplate="about 10^%{x:.2f} of the rows: %{y} features<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title="share of rows that have the feature, log₁₀")
    figure.update_yaxes(title="features")
    there = evaluation.axes["measure"]
    measures = [
        f"{MEASURE_WORDS[name]} {evaluation[name]:.3g}"
        for name in ("explained_variance", "l0", "dead_share", "dense_share")
        if name in there
    ]
    return finish(
        figure,
        "How often features are on",
        f"{text(evaluation.settings['model'])}, {text(evaluation.settings['hook'])}; {', '.join(measures)}",
        height=430,
    )
