"""Registers: the neurons that make artefact tokens, and extra tokens that take their place.

`find_register_neurons` finds the neurons that write high-norm tokens, `register_shift` moves what they write to an
extra token and says what changes, `add_test_time_registers` gives the model such tokens for good.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
