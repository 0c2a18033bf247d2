"""The models and pictures of the analyses' tests."""

from analysis.conftest import classifier, distilled, headless, images_of, plain

__all__ = ["classifier", "distilled", "headless", "images_of", "plain"]
