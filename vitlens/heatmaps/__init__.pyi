from .methods.saliency import Importance as Importance
from .methods.saliency import gradient_rollout as gradient_rollout
from .methods.saliency import projection_gradient as projection_gradient
from .registry import heatmap_methods as heatmap_methods
from .run import Heatmap as Heatmap
from .run import heatmap as heatmap
