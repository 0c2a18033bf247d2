"""Small random models of two towers with tokenizers of a few words, each built once; parameters are drawn in float64."""

import gzip
import io
import string
import tempfile
from functools import cache
from pathlib import Path

import open_clip
import sentencepiece
import torch
import transformers
from einops import rearrange
from open_clip.tokenizer import SimpleTokenizer

from vitlens.parity.peers.huggingface_vit import SMALL_TOWER
from vitlens.parity.peers.open_clip_towers import VISION
from vitlens.parity.reduced import randomise

#: Of several lengths, with capitals, punctuation and a word that no tokenizer knows whole.
TEXTS = ["a photo of a cat", "Stripes!", "a dog, on a MAT", "the cat sat on the mat"]
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LENGTH = 24
TEXT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
READER = {"context_length": LENGTH, "width": 16, "heads": 2, "layers": 2}
MERGES = [("c", "a"), ("ca", "t</w>"), ("o", "f</w>"), ("p", "h"), ("ph", "o")]


def clip_tokenizer():
    """CLIP's byte pairs of few letters and words."""
    letters = [*string.ascii_lowercase, *"!,."]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in MERGES)]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return transformers.CLIPTokenizer(vocabulary, MERGES, model_max_length=LENGTH)


@cache
def siglip_tokenizer():
    """SigLIP's sentence pieces, found in a few sentences; as released, it gives no mask."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a photo of a cat", "a dog on a mat", "the cat sat", "stripes"] * 20),
        model_writer=written, vocab_size=40, hard_vocab_limit=False, pad_id=-1, bos_id=-1, eos_id=1, unk_id=0,
        minloglevel=2,
    )  # fmt: skip
    path = Path(tempfile.mkdtemp()) / "spiece.model"
    path.write_bytes(written.getvalue())
    return transformers.SiglipTokenizer(str(path), model_max_length=LENGTH, model_input_names=["input_ids"])


def siglip2_tokenizer():
    """SigLIP 2's byte pairs, in lower case."""
    letters = ["▁", *string.ascii_lowercase, *"!,."]
    marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocabulary = {word: i for i, word in enumerate([*marks, *letters, "ca", "cat"])}
    return transformers.Siglip2Tokenizer(vocabulary, [("c", "a"), ("ca", "t")], model_max_length=LENGTH)


def _reader(tokenizer, **options):
    eos = tokenizer.eos_token_id
    about = {"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, "eos_token_id": eos, "bos_token_id": 0}
    return {**TEXT, **about, **options}


@cache
def clip():
    tokenizer = clip_tokenizer()
    config = transformers.CLIPConfig(
        vision_config=SMALL_TOWER,
        text_config=_reader(tokenizer, bos_token_id=tokenizer.bos_token_id, projection_dim=24),
        projection_dim=24,
    )
    return randomise(transformers.CLIPModel(config)), tokenizer


@cache
def siglip():
    tokenizer = siglip_tokenizer()
    width = SMALL_TOWER["hidden_size"]
    config = transformers.SiglipConfig(vision_config=SMALL_TOWER, text_config=_reader(tokenizer, projection_size=width))
    return randomise(transformers.SiglipModel(config)), tokenizer


@cache
def siglip2():
    tokenizer = siglip2_tokenizer()
    sizes = {key: value for key, value in SMALL_TOWER.items() if key != "image_size"}
    config = transformers.Siglip2Config(
        vision_config=sizes | {"num_patches": 4},
        text_config=_reader(tokenizer, projection_size=SMALL_TOWER["hidden_size"]),
    )
    return randomise(transformers.Siglip2Model(config)), tokenizer


def cut_pictures(images):
    """Pictures as SigLIP 2 reads them."""
    patches = rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=16, q=16)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": patches.new_ones(patches.shape[:2], dtype=torch.bool),
        "spatial_shapes": torch.tensor([[2, 2]]).expand(len(images), 2),
    }


@cache
def byte_pairs():
    """A file of byte pairs as open_clip reads it."""
    path = Path(tempfile.mkdtemp()) / "pairs.txt.gz"
    path.write_bytes(gzip.compress("\n".join(["version", *(" ".join(pair) for pair in MERGES)]).encode()))
    return path


def open_clip_model(kind, **options):
    """A model of open_clip, and its tokenizer."""
    tokenizer = SimpleTokenizer(str(byte_pairs()), context_length=LENGTH)
    reader = READER | {"vocab_size": tokenizer.vocab_size}
    about = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": reader}
    given = {
        key: {**about.get(key, {}), **value} if isinstance(value, dict) else value for key, value in options.items()
    }
    return randomise(getattr(open_clip, kind)(**about | given)), tokenizer
