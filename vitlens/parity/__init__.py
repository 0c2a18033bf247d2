"""Measures how exactly a port computes what timm computes.

`supported_models` lists the timm names that can be ported; `verify_port` runs timm's module and its port side by side
and reports every difference.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
