from .maps import AttentionMaps as AttentionMaps
from .run import attention as attention
