from .options import Timm as Timm
from .shared import DEMO as DEMO
from .shared import check_device as check_device
from .shared import is_watched as is_watched
from .shared import load_model as load_model
from .shared import read_keywords as read_keywords
from .shared import run as run
