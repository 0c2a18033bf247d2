"""Text towers answer as the library that they are from: logits of pictures and sentences, tokenizers included."""

import pytest
import torch
import transformers
from open_clip.hf_model import HFTextEncoder
from open_clip.tokenizer import HFTokenizer
from towers import (
    IMAGES,
    LENGTH,
    TEXT,
    TEXTS,
    VISION,
    clip,
    cut_pictures,
    open_clip_model,
    siglip,
    siglip2,
    siglip_tokenizer,
)

from vitlens import HookedViT
from vitlens.parity.peers.peer import KeepsFloat64
from vitlens.parity.reduced import randomise
from vitlens.text import TextTower

pytestmark = pytest.mark.filterwarnings("ignore:.*is read as")


def equal(found, expected):
    assert found.dtype == expected.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def logits(model, tower):
    model = model.with_class_embeddings(tower, TEXTS)
    assert model.class_names == TEXTS
    return model(IMAGES), model.cfg.output


@torch.no_grad()
def test_clip():
    module, tokenizer = clip()
    tower = TextTower.from_pretrained(module, tokenizer=tokenizer)
    found, output = logits(HookedViT.from_pretrained(module), tower)
    tokens = tokenizer(TEXTS, padding=True, return_tensors="pt")
    equal(found, module(**tokens, pixel_values=IMAGES).logits_per_image)
    assert output == "softmax"
    # In its own precision, one by one or together.
    equal(tower.embed(TEXTS)[2:3], tower.embed(TEXTS[2]))


@torch.no_grad()
def test_siglip_pads_and_has_a_bias():
    module, tokenizer = siglip()
    tower = TextTower.from_pretrained(module, tokenizer=tokenizer)
    found, output = logits(HookedViT.from_pretrained(module), tower)
    tokens = tokenizer(TEXTS, padding="max_length", max_length=LENGTH, return_tensors="pt")
    assert set(tokens) == {"input_ids"}
    equal(found, module(**tokens, pixel_values=IMAGES).logits_per_image)
    assert output == "sigmoid"
    assert tower.bias == module.logit_bias.item()
    # The tokenizer's canonical form: no capitals, no punctuation.
    equal(tower.embed("Stripes!"), tower.embed("stripes"))


@torch.no_grad()
def test_siglip_2_of_pictures_of_any_size():
    module, tokenizer = siglip2()
    tower = TextTower.from_pretrained(module, tokenizer=tokenizer)
    processor = transformers.Siglip2Processor(transformers.Siglip2ImageProcessor(), tokenizer)
    tokens = processor(text=TEXTS, max_length=LENGTH, return_tensors="pt")
    with KeepsFloat64():
        found, output = logits(HookedViT.from_pretrained(module), tower)
        equal(found, module(**tokens, **cut_pictures(IMAGES)).logits_per_image)
    assert output == "sigmoid"
    equal(tower.embed("A CAT"), tower.embed("a cat"))


OF_OPEN_CLIP = {
    "CLIP": ("CLIP", {}),
    "as wide as the features that are projected": ("CLIP", {"embed_dim": VISION["width"]}),
    "texts in a part of their own": ("CustomTextCLIP", {"quick_gelu": True}),
    "SigLIP": (
        "CustomTextCLIP",
        {"init_logit_bias": -10.0, "text_cfg": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}},
    ),
    "CoCa": (
        "CoCa",
        {
            "vision_cfg": {"attentional_pool": True, "attn_pooler_queries": 3, "attn_pooler_heads": 3},
            "text_cfg": {"embed_cls": True, "output_tokens": True},
            "multimodal_cfg": {"context_length": 24, "vocab_size": 600, "width": 24, "heads": 2, "layers": 1},
        },
    ),
}


@pytest.mark.parametrize("name", OF_OPEN_CLIP)
@torch.no_grad()
def test_open_clip(name):
    kind, options = OF_OPEN_CLIP[name]
    options = {key: dict(value) if isinstance(value, dict) else value for key, value in options.items()}
    if kind == "CoCa":
        options["vision_cfg"]["output_tokens"] = True
    module, tokenizer = open_clip_model(kind, **options)
    tower = TextTower.from_pretrained(module, tokenizer=tokenizer)
    found, output = logits(HookedViT.from_pretrained(module), tower)
    tokens = tokenizer(TEXTS)
    pictures, texts = module.encode_image(IMAGES), module.encode_text(tokens)
    cosines = torch.nn.functional.normalize(pictures, dim=-1) @ torch.nn.functional.normalize(texts, dim=-1).T
    bias = 0.0 if module.logit_bias is None else module.logit_bias
    equal(found, module.logit_scale.exp() * cosines + bias)
    assert output == ("sigmoid" if name == "SigLIP" else "softmax")


@torch.no_grad()
def test_a_tower_of_hugging_face_inside_open_clip(tmp_path):
    """It has more places than it reads: the tokenizer says how many."""
    siglip_tokenizer().save_pretrained(tmp_path)
    tokenizer = HFTokenizer(str(tmp_path), context_length=LENGTH)
    bert = transformers.BertConfig(
        vocab_size=len(siglip_tokenizer()), max_position_embeddings=2 * LENGTH, pad_token_id=1, **TEXT
    )
    bert.save_pretrained(tmp_path)
    module, _ = open_clip_model("CustomTextCLIP")
    reader = HFTextEncoder(str(tmp_path), 24, config=bert, pooler_type="mean_pooler", proj_type="mlp", pretrained=False)
    module.text = randomise(reader)
    tower = TextTower.from_pretrained(module, tokenizer=tokenizer)
    equal(tower.embed(TEXTS), torch.nn.functional.normalize(module.encode_text(tokenizer(TEXTS)), dim=-1))
    with pytest.warns(UserWarning, match=rf"reads {LENGTH - 1} tokens"):
        tower.embed("cat " * LENGTH)
