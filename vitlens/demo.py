"""The demo that ships with vitlens: small trained ViTs and 100 pictures of garments in context, offline."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vitlens.arguments import checked
from vitlens.data.demo_files import demo_folder
from vitlens.data.masks import read_mask
from vitlens.demo_words import SumOfWords
from vitlens.features.dictionaries.dictionary import SparseAutoencoder, Transcoder
from vitlens.features.formats.loading import load_sae
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.provenance import Provenance
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.text.tower import TextTower

__all__ = [
    "DemoPictures",
    "load_demo",
    "load_demo_dictionary",
    "load_demo_model",
    "load_demo_pictures",
    "load_demo_transcoders",
    "load_demo_words",
]


@leaves_state
def load_demo_model() -> HookedViT:
    """The demo's ViT, trained by experiments/train_demo_model.py.

    Examples:
        >>> import vitlens
        >>> vitlens.demo.load_demo_model()
        HookedViT(fashion_in_context_vit: 6 blocks × 4 heads, ...)
    """
    description = _description()
    made = Provenance(
        "the demo's own, trained by experiments/train_demo_model.py", call="vitlens.demo.load_demo_model()"
    )
    return _load(
        "model.safetensors", made, description["architecture"], description["name"], description["class_names"]
    )


@leaves_state
def load_demo_words() -> tuple[HookedViT, TextTower]:
    """Two towers that were trained together on the demo's kind of pictures, by experiments/train_demo_words.py.

    The model embeds pictures, and has the text tower as its own. The tower embeds what names a garment ("a T-shirt"), a
    texture ("stripes"), or both ("a bag on dots"). It knows a few dozen words, and refuses any other with the list of them.

    Examples:
        >>> import vitlens
        >>> model, tower = vitlens.demo.load_demo_words()
        >>> pictures = vitlens.demo.load_demo_pictures(model)
        >>> lens = vitlens.class_lens(model, pictures.images[:2], text=["a T-shirt", "stripes", "noise"], tokens="class")
        >>> lens.probabilities[0, -1, :, 0].round(decimals=1)  # of each picture and text, after the last block
        tensor([[0.8000, 1.0000, 0.0000],
                [0.8000, 0.0000, 1.0000]])
    """
    folder = demo_folder() / "words"
    told = json.loads((folder / "words.json").read_text())
    made = Provenance(
        "the demo's own, trained by experiments/train_demo_words.py", call="vitlens.demo.load_demo_words()[0]"
    )
    architecture = _description()["architecture"] | {"num_classes": told["width"]}
    model = _load("words/pictures.safetensors", made, architecture, told["name"], None)
    model.set_output("embedding")
    network = SumOfWords(told["words"], told["fillers"], told["width"])
    network.load_state_dict(load_file(folder / "texts.safetensors"))
    tower = TextTower(network, scale=told["scale"], bias=told["bias"], output="sigmoid", name="the demo's words")
    model.set_text_tower(tower)
    return model, tower


@dataclass(frozen=True)
class DemoPictures:
    """100 pictures in pairs: the same garment at the same place, on its own class's texture and on another class's.

    `contexts` is the class of the background's texture: in picture 2i it agrees with the garment, in 2i + 1 it conflicts.
    """

    images: Float[Tensor, "picture 3 height width"]
    labels: Int[Tensor, "picture"]
    masks: Bool[Tensor, "picture height width"]
    contexts: Int[Tensor, "picture"]
    paths: list[Path]

    @property
    def agreeing(self) -> slice:
        return slice(0, None, 2)

    @property
    def conflicting(self) -> slice:
        return slice(1, None, 2)


@leaves_state
@checked
def load_demo_pictures(model: HookedViT) -> DemoPictures:
    """The demo's pictures, preprocessed, with labels, masks, background classes and paths.

    Examples:
        >>> import vitlens
        >>> model = vitlens.demo.load_demo_model()
        >>> pictures = vitlens.demo.load_demo_pictures(model)
        >>> model.class_label(int(pictures.labels[1])), model.class_label(int(pictures.contexts[1]))
        ('T-shirt', 'ankle boot')
    """
    folder = demo_folder()
    table = pd.read_csv(folder / "pictures.csv")
    paths = [folder / "pictures" / name for name in table["file"]]
    masks = [read_mask(folder / "masks" / name).inside for name in table["file"]]
    return DemoPictures(
        model.to_images(paths),
        torch.tensor(table["label"].to_numpy()),
        torch.from_numpy(np.stack(masks)),
        torch.tensor(table["context"].to_numpy()),
        paths,
    )


@leaves_state
def load_demo() -> tuple[
    HookedViT,
    Float[Tensor, "picture 3 height width"],
    Int[Tensor, "picture"],
    Bool[Tensor, "picture height width"],
]:
    """(model, images, labels, masks) of "Fashion in context": 100 pictures, 10 a class, in 50 pairs.

    Picture 2i shows a garment on its own class's texture, picture 2i + 1 the same garment on another class's.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> images.shape, masks.shape
        (torch.Size([100, 3, 56, 56]), torch.Size([100, 56, 56]))
        >>> [model.class_label(int(label)) for label in model(images[:60:20]).argmax(dim=-1)]
        ['T-shirt', 'pullover', 'coat']
    """
    model = load_demo_model()
    pictures = load_demo_pictures(model)
    return model, pictures.images, pictures.labels, pictures.masks


@leaves_state
def load_demo_dictionary() -> SparseAutoencoder:
    """A sparse autoencoder of the demo model's residual stream, trained by experiments/train_demo_dictionaries.py.

    Examples:
        >>> import vitlens
        >>> sae = vitlens.demo.load_demo_dictionary()
        >>> sae.hook, sae.d_sae
        ('blocks.3.hook_resid_post', 768)
    """
    return next(iter(_dictionaries("sae").values()))


@leaves_state
def load_demo_transcoders() -> dict[str, Transcoder]:
    """A transcoder of each of the demo model's MLPs, by the hook point that it reads, as `with_saes` takes them.

    They read what the MLP reads (after the LayerNorm) and predict what it writes; experiments/train_demo_dictionaries.py
    trains them.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> transcoders = vitlens.demo.load_demo_transcoders()
        >>> with vitlens.features.with_saes(model, transcoders):
        ...     logits = model(images)
        >>> (logits.argmax(dim=-1) == model(images).argmax(dim=-1)).float().mean() > 0.9
        tensor(True)
    """
    return {hook: sae for hook, sae in _dictionaries("transcoders").items() if isinstance(sae, Transcoder)}


def _description() -> dict[str, Any]:
    return json.loads((demo_folder() / "model.json").read_text())


def _load(
    weights: str, made: Provenance, arguments: dict[str, Any], name: str, class_names: list[str] | None
) -> HookedViT:
    """A model of the demo; its weights are stored in half precision, and computed with in float32."""

    def architecture() -> VisionTransformer:
        module: Any = VisionTransformer(**arguments)
        module.pretrained_cfg = {"architecture": name, **_description()["data_config"], "label_names": class_names}
        return module

    module = architecture()
    module.load_state_dict(load_file(demo_folder() / weights))
    model = HookedViT.from_timm(module.eval())
    model.architecture, model.provenance = architecture, made
    return model


def _dictionaries(name: str) -> dict[str, SparseAutoencoder]:
    """The dictionaries of a folder of the demo, by hook point in the order of the blocks; stored in half precision."""
    found = [load_sae(folder, dtype="float32") for folder in sorted((demo_folder() / "dictionaries" / name).iterdir())]
    for sae in found:
        # Not the path of this machine: figures name it.
        sae.source = "demo"
    return {sae.hook: sae for sae in found if isinstance(sae, SparseAutoencoder) and sae.hook is not None}
