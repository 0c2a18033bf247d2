from .groups import Groups as Groups
from .groups import read_groups as read_groups
