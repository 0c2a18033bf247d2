"""Proof that a port computes what timm computes.

`supported_models` lists the timm names that can be ported; `verify_port` runs timm's module and its port side by side
and reports every difference.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
