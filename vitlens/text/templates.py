"""Sentences into which names of things are put, where a model expects a caption."""

#: Captions of photographs, of one thing, whole or in part, near or far, clear or not: their mean says less of the wording
#: than one of them.
PHOTO_TEMPLATES = (
    "a photo of a {}.",
    "a close-up photo of a {}.",
    "a photo of a {} from far away.",
    "a blurry photo of a {}.",
    "a photo of part of a {}.",
    "a picture with a {} in it.",
    "one {} among other things.",
    "this is a {}.",
)
