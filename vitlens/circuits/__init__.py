"""Circuits: the few edges of the model's graph that a behaviour needs.

`find_circuit` keeps the edges with the highest scores, `evaluate_circuits` runs the model on the circuit alone and
gives the curve of faithfulness over size, `minimality` removes one edge after the other.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
