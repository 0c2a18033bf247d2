from .neurons import add_test_time_registers as add_test_time_registers
from .neurons import find_register_neurons as find_register_neurons
from .neurons import register_shift as register_shift
from .results import RegisterNeurons as RegisterNeurons
from .results import RegisterShift as RegisterShift
