from .families import supported_families as supported_families
from .supported import supported_models as supported_models
from .verify import ParityReport as ParityReport
from .verify import verify_port as verify_port
