"""One function per figure: results in, plotly figures out. `plot(result)` chooses the one that fits.

Figures are light; `dark(figure)` gives the same one for a dark background.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
