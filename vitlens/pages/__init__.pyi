from .description_page import write_description_page as write_description_page
from .explorer.explorer import Explorer as Explorer
from .explorer.run import explore as explore
