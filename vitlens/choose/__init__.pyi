from .classes import ClassSelection as ClassSelection
from .classes import select_classes as select_classes
from .metrics import class_metric as class_metric
from .tokens import Box as Box
from .tokens import box as box
from .tokens import patch as patch
from .tokens import select_tokens as select_tokens
