"""Text towers from folders and the hub; texts that are too long; what is refused, in a sentence."""

import json
import warnings

import pytest
import torch
import transformers
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from towers import IMAGES, LENGTH, TEXTS, VISION, clip, open_clip_model, siglip, siglip_tokenizer

from vitlens import HookedViT, InputError
from vitlens.text import PHOTO_TEMPLATES, TextTower

pytestmark = pytest.mark.filterwarnings("ignore:.*is read as")


def equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.fixture(scope="module")
def clip_tower():
    module, tokenizer = clip()
    return TextTower.from_pretrained(module, tokenizer=tokenizer)


@pytest.fixture
def folder(tmp_path):
    """What save_pretrained writes of a model and its tokenizer."""
    module, tokenizer = clip()
    module.save_pretrained(tmp_path / "mine")
    tokenizer.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


def test_a_folder_of_hugging_face(folder, clip_tower):
    tower = TextTower.from_pretrained(folder)
    equal(tower.embed(TEXTS), clip_tower.embed(TEXTS))
    assert (tower.name, tower.scale, tower.bias, tower.output) == ("mine", clip_tower.scale, None, "softmax")
    # The file of weights in it, the folder's own picture tower, and another precision.
    equal(TextTower.from_pretrained(folder / "model.safetensors").embed(TEXTS), tower.embed(TEXTS))
    assert TextTower.from_pretrained(folder, dtype="float32", device="cpu").embed(TEXTS).dtype == torch.float32
    model = HookedViT.from_pretrained(folder)
    model.set_class_embeddings(tower, TEXTS)
    assert model(IMAGES).shape == (3, len(TEXTS))


def test_shards_and_a_tower_alone(tmp_path, clip_tower):
    module, tokenizer = clip()
    module.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    equal(TextTower.from_pretrained(tmp_path, tokenizer=tokenizer).embed(TEXTS), clip_tower.embed(TEXTS))
    alone = transformers.CLIPTextModelWithProjection.from_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="no logit_scale, so its logits are cosines: pass scale="):
        tower = TextTower.from_pretrained(alone, tokenizer=tokenizer)
    equal(tower.embed(TEXTS), clip_tower.embed(TEXTS))
    assert tower.scale == 1.0
    alone.save_pretrained(tmp_path / "alone")
    tokenizer.save_pretrained(tmp_path / "alone")
    tower = TextTower.from_pretrained(tmp_path / "alone", scale=7.0)
    equal(tower.embed(TEXTS), clip_tower.embed(TEXTS))
    assert tower.scale == 7.0
    # Loaded from a folder with a tokenizer, a module knows where it is.
    loaded = transformers.CLIPTextModelWithProjection.from_pretrained(tmp_path / "alone")
    equal(TextTower.from_pretrained(loaded, scale=7.0).embed(TEXTS), clip_tower.embed(TEXTS))


def test_siglip_from_a_folder_and_its_tower_alone(tmp_path):
    module, tokenizer = siglip()
    processor = transformers.SiglipProcessor(transformers.SiglipImageProcessor(), tokenizer)
    tower = TextTower.from_pretrained(module, tokenizer=processor)
    module.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = TextTower.from_pretrained(tmp_path)
    equal(found.embed(TEXTS), tower.embed(TEXTS))
    assert (found.scale, found.bias, found.output) == (tower.scale, tower.bias, "sigmoid")
    alone = transformers.SiglipTextModel.from_pretrained(tmp_path)
    equal(TextTower.from_pretrained(alone, tokenizer=tokenizer, scale=1.0).embed(TEXTS), tower.embed(TEXTS))


def open_clip_folder(path, module, text_cfg, **more):
    config = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": text_cfg, **more}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(module.state_dict(), path / "open_clip_model.safetensors")
    return path


def test_a_folder_of_open_clip_with_its_own_byte_pairs(tmp_path):
    reader = {"context_length": LENGTH, "width": 4, "heads": 1, "layers": 1, "vocab_size": 49408}
    module, _ = open_clip_model("CLIP", text_cfg=reader)
    expected = TextTower.from_pretrained(module, tokenizer=SimpleTokenizer(context_length=77))
    found = TextTower.from_pretrained(open_clip_folder(tmp_path, module, reader))
    equal(found.embed(TEXTS), expected.embed(TEXTS))
    assert (found.scale, found.output) == (module.logit_scale.exp().item(), "softmax")
    model = HookedViT.from_pretrained(tmp_path)
    model.set_class_embeddings(found, TEXTS)
    equal(model(IMAGES), HookedViT.from_pretrained(module).with_class_embeddings(expected, TEXTS)(IMAGES))


def test_a_folder_of_open_clip_with_a_tokenizer_of_hugging_face(tmp_path):
    tokenizer = siglip_tokenizer()
    reader = {
        "context_length": LENGTH, "width": 16, "heads": 2, "layers": 1, "vocab_size": len(tokenizer),
        "hf_tokenizer_name": "owner/name", "tokenizer_kwargs": {"clean": "canonicalize"}, "no_causal_mask": True,
        "pool_type": "last", "proj_bias": True,
    }  # fmt: skip
    kept = {key: value for key, value in reader.items() if key not in ("hf_tokenizer_name", "tokenizer_kwargs")}
    module, _ = open_clip_model("CustomTextCLIP", text_cfg=kept, init_logit_bias=-1.0)
    tokenizer.save_pretrained(tmp_path)
    folder = open_clip_folder(tmp_path, module, reader, custom_text=True, init_logit_bias=-1.0)
    tower = TextTower.from_pretrained(folder)
    tokens = tokenizer(TEXTS, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    with torch.no_grad():
        equal(tower.embed(TEXTS), torch.nn.functional.normalize(module.encode_text(tokens), dim=-1))
    assert (tower.bias, tower.output) == (module.logit_bias.item(), "sigmoid")
    with pytest.warns(UserWarning, match=rf"reads {LENGTH - 1} tokens of a text.*is not read"):
        tower.embed("cat " * LENGTH)


def test_a_repository_on_the_hub(folder, clip_tower, monkeypatch):
    """The client's answer is put in its place: tests have no network."""
    asked = []

    def snapshot(repository, **options):
        asked.append((repository, options["revision"], "tokenizer.json" in options["allow_patterns"]))
        return str(folder)

    monkeypatch.setattr("vitlens.model.families.hub.snapshot_download", snapshot)
    equal(TextTower.from_pretrained("owner/clip@v2").embed(TEXTS), clip_tower.embed(TEXTS))
    assert asked == [("owner/clip", "v2", False), ("owner/clip", "v2", True)]
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    monkeypatch.setattr("vitlens.model.families.hub.has_network", lambda: False)
    with pytest.raises(InputError, match=r"owner/clip.*its tokenizer is not on this machine.*no network"):
        TextTower.from_pretrained("owner/clip")


def test_what_is_lost_of_texts_that_are_too_long(clip_tower):
    long = "a cat " * 5 + "of the " * 10
    wanted = rf"^the tower reads {LENGTH - 2} tokens of a text, and .* is not read, and 1 more is too long$"
    with pytest.warns(UserWarning, match=wanted):
        clip_tower.embed(["a cat", long, long + long])
    module, tokenizer = open_clip_model("CLIP")
    tower = TextTower.from_pretrained(module, tokenizer=tokenizer)
    kept = " ".join(["a"] * (LENGTH - 2))
    with pytest.warns(UserWarning, match=r"and 'a a .*' has 23: 'of' is not read$"):
        cut = tower.embed(f"{kept} of")
    equal(cut, tower.embed(kept))


def test_a_tokenizer_that_only_gives_tokens_tells_what_is_lost():
    """As `clip.tokenize` with truncate=True, which has no other method."""
    module, tokenizer = open_clip_model("CLIP")
    tower = TextTower.from_pretrained(module, tokenizer=lambda texts: tokenizer(texts))
    kept = " ".join(["a"] * (LENGTH - 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tower.embed([kept, "a", "a cat of"])
    with pytest.warns(
        UserWarning, match=r"^'a a .*' is longer than the tower reads: 'of the' is not read, and 1 more is too"
    ):
        cut = tower.embed(["a cat", f"{kept} of the", f"{kept} a"])
    equal(cut[1:], tower.embed([kept, kept]))


def test_templates_are_averaged(clip_tower):
    module, tokenizer = clip()
    tower = TextTower.from_pretrained(module, tokenizer=tokenizer, templates=["a {}", "the {}"])
    units = torch.stack([clip_tower.embed(["a cat", "a dog"]), clip_tower.embed(["the cat", "the dog"])])
    mean = torch.nn.functional.normalize(units.mean(dim=0), dim=1)
    torch.testing.assert_close(tower.embed(["cat", "dog"]), mean, rtol=1e-12, atol=0)
    equal(clip_tower.embed("cat", templates=PHOTO_TEMPLATES[:1]), clip_tower.embed("a photo of a cat."))
    assert len(set(PHOTO_TEMPLATES)) == len(PHOTO_TEMPLATES)


def test_dropout_is_off_and_modes_are_left():
    config = clip()[0].config
    module = transformers.CLIPModel(config).train()
    module.text_model.encoder.layers[0].self_attn.dropout = 0.9
    module.text_model.final_layer_norm.eval()
    tower = TextTower.from_pretrained(module, tokenizer=clip()[1])
    equal(tower.embed(TEXTS), tower.embed(TEXTS))
    assert module.training
    assert not module.text_model.final_layer_norm.training


def test_half_precision_is_normed_in_float32():
    module, tokenizer = clip()
    config = module.config
    half = transformers.CLIPModel(config).eval()
    half.load_state_dict(module.state_dict())
    tower = TextTower.from_pretrained(half.bfloat16(), tokenizer=tokenizer)
    norms = tower.embed(TEXTS).norm(dim=1)
    assert norms.dtype == torch.float32
    torch.testing.assert_close(norms, torch.ones(len(TEXTS)))


ROWS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "given",
    [ROWS.numpy(), ROWS.tolist(), list(ROWS), tuple(ROWS.numpy()), 1e30 * ROWS, 1e-30 * ROWS, ROWS.double() * 1e200],
)
def test_a_function_gives_vectors_in_any_form(given):
    found = TextTower(lambda texts: given).embed(["a", "b", "c"])
    torch.testing.assert_close(found.float(), torch.nn.functional.normalize(ROWS, dim=1))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "not None"),
        (["a", "b", "c"], r"not \['a', 'b', 'c'\]"),
        ([[1.0], [1.0, 2.0], [1.0]], "gives floats"),
        ({"text_embeds": ROWS}, "gives floats"),
        ((ROWS, 3), "gives floats"),
        (ROWS.to_sparse(), "gives floats"),
        (ROWS.to("meta"), "gives floats"),
        (torch.nested.nested_tensor(list(ROWS), layout=torch.jagged), "gives floats"),
        (ROWS.long(), "of torch.int64"),
        (ROWS.bool().numpy().astype(object), "gives floats"),
        (ROWS[:2], r"not \[2, 4\] for 3 of them"),
        (ROWS[:, :0], r"not \[3, 0\] for 3 of them"),
        (ROWS[0], r"not \[4\] for 3 of them"),
        (ROWS * torch.nan, "embedding of 'a' is zero or not finite"),
    ],
)
def test_what_a_function_gives_in_place_of_vectors(given, said):
    with pytest.raises(InputError, match=said):
        TextTower(lambda texts: given).embed(["a", "b", "c"])


def test_a_function_gives_vectors_of_one_width():
    tower = TextTower(lambda texts: torch.ones(len(texts), 4 if len(texts) > 1 else 5))
    with pytest.raises(InputError, match="gives vectors of 4 and of 5 numbers"):
        tower.embed([str(i) for i in range(257)])


def without_texts(folder):
    transformers.CLIPVisionModel.from_pretrained(folder).save_pretrained(folder)


def with_a_classifier_in_place_of_texts(folder):
    transformers.CLIPForImageClassification(clip()[0].config).save_pretrained(folder)


def with_broken_weights(folder):
    (folder / "model.safetensors").write_bytes(b"nothing")


def without_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()


def with_broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text("[")


def of_another_kind(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))


def without_configuration(folder):
    (folder / "config.json").unlink()


def of_an_adapter(folder):
    (folder / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_texts, "holds a clip_vision_model, whose texts vitlens does not read"),
        (with_a_classifier_in_place_of_texts, "lacks weights of a clip with its texts"),
        (with_broken_weights, "cannot be read as a clip"),
        (without_tokenizer, r"no files of a tokenizer.*pass tokenizer="),
        (with_broken_tokenizer, "tokenizer in .* cannot be read"),
        (of_another_kind, "holds a vit, whose texts vitlens does not read"),
        (without_configuration, "holds no config.json"),
        (of_an_adapter, "holds an adapter"),
    ],
)
def test_folders_that_are_refused(folder, change, said):
    change(folder)
    with pytest.raises(InputError, match=said):
        TextTower.from_pretrained(folder)


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        (lambda: clip()[0], {}, "needs its tokenizer: pass tokenizer="),
        (lambda: clip()[0], {"tokenizer": len}, "is a tokenizer of transformers"),
        (lambda: clip()[0], {"tokenizer": "nowhere"}, "holds no files of a tokenizer"),
        (lambda: clip()[0], {"tokenizer": clip()[1], "dtype": "float32"}, "leave device= and dtype= out"),
        (lambda: clip()[0].vision_model, {"tokenizer": clip()[1]}, "gives no texts a place among pictures"),
        (lambda: clip()[0].text_model, {"tokenizer": clip()[1]}, "gives no texts a place among pictures"),
        (lambda: open_clip_model("CLIP")[0], {}, "open_clip.get_tokenizer"),
        (lambda: open_clip_model("CLIP")[0], {"tokenizer": 5}, "is a function from a list of strings"),
        (lambda: torch.nn.Linear(2, 2), {}, "reads no texts as models"),
        (lambda: 5, {}, "a source of a text tower is"),
        (lambda: "vit_base_patch16_clip_224.openai", {}, "a name of timm, whose models read no texts"),
        (lambda: "no/such/folder", {}, "there is no file or folder"),
    ],
)  # fmt: skip
def test_sources_that_are_refused(source, options, said):
    with pytest.raises(InputError, match=said):
        TextTower.from_pretrained(source(), **options)


@pytest.mark.parametrize("tokenizer", [SimpleTokenizer(), lambda texts: torch.zeros(len(texts), 5, dtype=torch.long)])
def test_the_tokenizer_of_another_model(tokenizer):
    module, _ = open_clip_model("CLIP")
    tower = TextTower.from_pretrained(module, tokenizer=tokenizer)
    with pytest.raises(InputError, match=r"do not belong together|pass the tokenizer of this model"):
        tower.embed("a cat")
    with pytest.raises(InputError, match="do not belong together"):
        TextTower.from_pretrained(siglip()[0], tokenizer=clip()[1]).embed("the mat")
