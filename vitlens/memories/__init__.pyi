from .dictionary import top_memory_patches as top_memory_patches
from .memories import class_value_agreement as class_value_agreement
from .memories import key_value_agreement as key_value_agreement
from .memories import read_memories as read_memories
