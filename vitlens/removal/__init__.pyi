from .knockouts import Edges as Edges
from .knockouts import Knockout as Knockout
from .knockouts import knockout_attention as knockout_attention
from .knockouts import knockout_hooks as knockout_hooks
from .tokens import TokenAblation as TokenAblation
from .tokens import ablate_tokens as ablate_tokens
