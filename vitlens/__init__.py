"""vitlens: look inside vision transformers.

    import vitlens
    model, images, labels, masks = vitlens.load_demo()
    logits, cache = model.run_with_cache(images)
    vitlens.class_lens(model, images, labels)

The names used most are here; the rest is in chapters: `vitlens.patterns`, `.lens`, `.attribution`, `.patching`, `.circuits`,
`.removal`, `.memories`, `.features`, `.description`, `.registers`, `.similarity`, `.editing`, `.heatmaps`, `.faithfulness`,
`.paper`, `.pages`, `.plots`, and below them `.data`, `.model`, `.choose`, `.results`, `.statistics`. Names load when they
are first used, so `import vitlens` costs next to nothing.
"""

from vitlens.lazy import attach
from vitlens.version import __version__ as __version__

__getattr__, __dir__, __all__ = attach(__name__, __file__)
