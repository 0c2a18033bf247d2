from .axes import ComponentLabel as ComponentLabel
from .axes import TokenLabel as TokenLabel
from .result import Result as Result
from .result import load_result as load_result
