"""The models and pictures of the analyses' tests, and the model whose outliers were planted by hand."""

from analysis.conftest import classifier, distilled, headless, images_of, plain
from analysis.test_registers import planted

__all__ = ["classifier", "distilled", "headless", "images_of", "plain", "planted"]
