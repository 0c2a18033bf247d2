from .options import ModelOptions as ModelOptions
from .options import Timm as Timm
from .options import with_model as with_model
from .shared import DEMO as DEMO
from .shared import check_device as check_device
from .shared import is_watched as is_watched
from .shared import read_keywords as read_keywords
from .shared import run as run
