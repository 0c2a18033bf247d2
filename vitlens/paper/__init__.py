"""The experiments of Vilas, Schaumlöffel & Roig (NeurIPS 2023) over a data set, resumable.

`run_study` runs them by a `StudySettings` and writes tables, figures and a page; `experiments/` holds one file for each
experiment and `figures/` the paper's figures.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
