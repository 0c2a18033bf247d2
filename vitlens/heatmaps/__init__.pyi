from .registry import heatmap_methods as heatmap_methods
from .run import Heatmap as Heatmap
from .run import heatmap as heatmap
