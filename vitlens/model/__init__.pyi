from .config import HookedViTConfig as HookedViTConfig
from .graph import Graph as Graph
from .graph import Node as Node
from .hooked_vit import HookedViT as HookedViT
from .hooks.cache import ViTActivationCache as ViTActivationCache
from .hooks.cache_size import CacheSize as CacheSize
