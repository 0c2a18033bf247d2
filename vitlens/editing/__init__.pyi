from .groups import Groups as Groups
from .groups import propose_groups as propose_groups
from .groups import read_groups as read_groups
from .shortcut import find_shortcut as find_shortcut
from .shortcut_result import Shortcut as Shortcut
