"""Measures how faithful heatmaps are to the model: deletion, insertion, sanity checks and other metrics.

`evaluate_heatmaps` scores heatmaps on the same pictures by every metric, with intervals, and
`evaluate_heatmaps_over_data` a whole data set, chunk by chunk; `evaluate_segmentation`
compares them with masks; `randomisation_test` compares them with those of a re-initialised model; `perturbation_test`
removes patches in order. `faithfulness_metrics()` lists the metrics.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
