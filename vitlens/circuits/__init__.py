"""Circuits: small sets of edges of the model's graph that explain a behaviour.

`find_circuit` keeps the edges with the highest scores, `prune_circuit` those without which a run changes.
`evaluate_circuits` runs the model on the circuit alone and gives its faithfulness over its size. `minimality`
measures what is lost without each edge.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
