from .direct import direct_logit_attribution as direct_logit_attribution
from .means import AttributionMeans as AttributionMeans
from .means import attribution_means as attribution_means
from .results import Attribution as Attribution
from .results import NeuronAttribution as NeuronAttribution
from .results import PatchAttribution as PatchAttribution
from .results import PathAttribution as PathAttribution
from .results import TokenAttribution as TokenAttribution
