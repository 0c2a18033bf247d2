from .artefacts import artefact_warning as artefact_warning
from .result import Description as Description
from .run import describe as describe
from .sinks import SinkRule as SinkRule
