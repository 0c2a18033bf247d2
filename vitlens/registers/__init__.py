"""Registers: the neurons that make high-norm artefact tokens, and extra tokens that take these activations over.

`find_register_neurons` finds the neurons. `register_shift` moves their activations to an extra token and
measures what changes. `add_test_time_registers` returns a model with such tokens.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
