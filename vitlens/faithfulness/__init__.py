"""Does a heatmap tell the truth about the model? Curves, correlations and checks that score it.

`evaluate_heatmaps` scores heatmaps on the same pictures by every metric, with intervals; `evaluate_segmentation`
compares them with masks; `randomisation_test` compares them with those of a re-initialised model; `perturbation_test`
removes patches in order. `faithfulness_metrics()` lists the metrics.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
