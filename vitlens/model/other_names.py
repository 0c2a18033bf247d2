"""Answers names that users of other libraries try on a HookedViT: the error says what the thing is called here."""

from typing import TYPE_CHECKING, Any

from torch import nn

#: Names of TransformerLens, ViT-Prisma and transformers that a HookedViT does not have, and what to use here.
CALLED_HERE = {
    **dict.fromkeys(
        ["from_pretrained_no_processing", "boot_transformers"], "use HookedViT.from_timm or HookedViT.from_pretrained"
    ),
    "from_local": "use HookedViT.from_timm(name, checkpoint_path=path)",
    "W_E": "the weight of the patch embedding is model.embed.patch_embed_weight",
    "head": "the classifier is model.unembed, and model.W_U its weight",
    "tokenizer": "pictures are read by model.to_images(pictures)",
    "to_str_tokens": "the names of the tokens are model.cfg.token_labels()",
    **dict.fromkeys(["to_string", "to_single_str_token"], "the name of a class is model.class_label(index)"),
    **dict.fromkeys(["enable_compatibility_mode", "process_weights"], "use model.process_weights_(fold_ln=True)"),
    "set_use_attn_result": 'use model.run_with_cache(images, names_filter="result")',
}


def _refusal(owner: type, name: str) -> AttributeError:
    return AttributeError(f"{owner.__name__} has no {name!r}: {CALLED_HERE[name]}", name=name)


class _OfClass(type):
    """Looks up what the class itself does not have: `HookedViT.from_pretrained`."""

    # A type checker would otherwise accept every name.
    if not TYPE_CHECKING:

        def __getattr__(cls, name: str) -> Any:
            if name in CALLED_HERE:
                raise _refusal(cls, name)
            raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}", name=name, obj=cls)


class OtherNames(nn.Module, metaclass=_OfClass):
    """A module that answers the names of `CALLED_HERE`. The errors are attribute errors, so `hasattr` is False."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                if name not in CALLED_HERE:
                    raise
            # After the handler, so that the user sees one traceback.
            raise _refusal(type(self), name)
