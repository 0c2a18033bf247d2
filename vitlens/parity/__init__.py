"""Measures how exactly a port computes what timm, or another library, computes.

`supported_models` lists the timm names that can be ported, `supported_families` the models of other libraries;
`verify_port` runs the library's module and its port side by side and reports every difference.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
