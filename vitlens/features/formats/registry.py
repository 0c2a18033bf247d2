"""All formats of dictionaries that vitlens reads, in the order in which they are tried."""

from vitlens.features.formats.circuit_tracer import CIRCUIT_TRACER
from vitlens.features.formats.dictionary_format import DictionaryFormat
from vitlens.features.formats.dictionary_learning import DICTIONARY_LEARNING
from vitlens.features.formats.overcomplete import OVERCOMPLETE
from vitlens.features.formats.prisma import PRISMA
from vitlens.features.formats.saelens import SAELENS
from vitlens.features.formats.saev import SAEV
from vitlens.features.formats.sparsify import SPARSIFY
from vitlens.features.formats.transcoder_sets import TRANSCODER_SET
from vitlens.features.formats.visaebench import VISAEBENCH

DICTIONARY_FORMATS: tuple[DictionaryFormat, ...] = (
    # These are recognised by the names of their files.
    SPARSIFY,
    SAELENS,
    CIRCUIT_TRACER,
    SAEV,
    TRANSCODER_SET,
    # These by their settings or the names of their tensors.
    PRISMA,
    DICTIONARY_LEARNING,
    VISAEBENCH,
    OVERCOMPLETE,
)
