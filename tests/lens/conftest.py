"""`classifier` is one of the composed models here, and each variant in make test-all."""

from ported import derived_classifier

__all__ = ["derived_classifier"]
