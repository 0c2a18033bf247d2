from .circuit import Circuit as Circuit
from .circuit import find_circuit as find_circuit
from .curves import CircuitCurve as CircuitCurve
from .curves import evaluate_circuits as evaluate_circuits
from .curves import minimality as minimality
from .graphs.attribution_graph import attribution_graph as attribution_graph
from .graphs.graph import AttributionGraph as AttributionGraph
from .sequential import prune_circuit as prune_circuit
