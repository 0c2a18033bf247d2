"""What the page says of a picture: true of models whose mechanism was planted, with numbers, and silent where they are."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from vitlens import HookedViT, activation_ablation, class_lens, direct_logit_attribution, explore
from vitlens.demo import load_demo_model, load_demo_pictures
from vitlens.pages.explorer.measure.picture import Settings, measure_picture
from vitlens.pages.explorer.sentences.compose import sentences_about
from vitlens.pages.explorer.sentences.subject import Subject, leading
from vitlens.pages.explorer.sentences.words import listed, moved, percent, signed, where_lie
from vitlens.planted import PLANTED, planted

PANELS = {"answer", "when", "who", "cause", "head", "patch", "notes", "picture"}
LAYERS = {"heatmap", "without", "writes"}
# With "shortcut" object and context say the same, and no single removal shows either.
TOLD_WHOLE = [name for name in PLANTED if name != "shortcut"]


def told(explorer, picture: int = 0, position: int = 0) -> dict[str, str]:
    """The text of every kind of sentence."""
    facts = explorer.facts["pictures"][picture]
    sentences = facts["sentences"][str(facts["classes"][position])]
    return {each["kind"]: plain("".join(text for text, *_ in each["parts"])) for each in sentences}


def plain(text: str) -> str:
    """With the spaces of a keyboard."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture(scope="module")
def pages():
    """Two pictures of every planted model, and what it is."""
    found = {}
    for name in PLANTED:
        vit = planted(name)
        pictures = vit.pictures(2)
        found[name] = (explore(vit.model, pictures.images, pictures.labels, n_classes=2, progress=False), vit, pictures)
    return found


@pytest.mark.parametrize("picture", [0, 1])
@pytest.mark.parametrize("name", TOLD_WHOLE)
def test_the_planted_heads_and_patches_are_named(pages, name, picture):
    explorer, vit, pictures = pages[name]
    said = told(explorer, picture)
    grid = explorer.facts["grid"]
    label = vit.model.class_label(int(pictures.labels[picture]))
    assert said["answer"].startswith(f"“{label}” > 99.9 %")
    for block, head in vit.truth.heads - vit.truth.backups:
        assert f"L{block}H{head}" in said["who"] + said["cause"] + said.get("apart", "")
    places = [divmod(patch, grid[1]) for patch in pictures.patches[picture].nonzero()[:, 0].tolist()]
    assert any(
        re.search(rf"patch \({row}, {column}\), the costliest, (it falls )?to", said["cause"]) for row, column in places
    )
    # The last of the parts decides: from its block on the class is first.
    block = max(vit.truth.mlps, default=max(head[0] for head in vit.truth.heads - vit.truth.backups))
    assert f"block {block}" in said["when"]


def test_who_writes_and_who_acts_through_others(pages):
    for name in ("evidence_copying", "large_distractor"):
        explorer, vit, pictures = pages[name]
        ((block, head),) = vit.truth.heads
        patch = divmod(int(pictures.patches[0].nonzero()[0]), explorer.facts["grid"][1])
        said = told(explorer)
        assert said["who"].startswith("1 head writes almost all")
        assert f"L{block}H{head} most" in said["who"]
        assert f"100 % of it from patch {patch}" in said["who"]
        assert "later parts" not in said["cause"] + said.get("apart", "")
    explorer, vit, _ = pages["context_cue"]
    first, second = sorted(vit.truth.heads)
    assert f"L{second[0]}H{second[1]} most" in told(explorer)["who"]
    assert re.search(rf"L{first[0]}H{first[1]} writes .* it acts through later parts", told(explorer)["apart"])
    explorer, vit, _ = pages["conjunction_memory"]
    (block,) = vit.truth.mlps
    assert f"the MLP of block {block} most" in told(explorer)["who"]
    assert "acts through later parts" in told(explorer)["apart"]


def test_a_head_with_a_backup_is_told(pages):
    explorer, vit, _ = pages["backup_head"]
    ((block, head),) = vit.truth.heads - vit.truth.backups
    said = told(explorer)
    assert said["cause"].startswith("No single head is needed: whichever of the 16 is removed, it keeps over 99.9 %")
    assert re.search(rf"L{block}H{head} writes .*: later parts or the final norm offset it", said["apart"])


def test_a_shortcut_is_told_and_the_head_that_says_the_same_is_not(pages):
    explorer, vit, _ = pages["shortcut"]
    ((block, head),) = vit.truth.shortcuts
    ((other_block, other_head),) = vit.truth.heads - vit.truth.shortcuts
    said = told(explorer)
    assert f"L{block}H{head} most" in said["who"]
    assert said["cause"].startswith("No single head is needed")
    assert not any(f"L{other_block}H{other_head}" in text for text in said.values())


def test_of_random_weights_nothing_is_claimed():
    torch.manual_seed(0)
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    model = HookedViT.from_timm("vit_tiny_patch16_224", pretrained=False, num_classes=50, **small)
    explorer = explore(model, torch.randn(1, 3, 32, 32), n_classes=3, progress=False)
    for position in range(3):
        said = told(explorer, position=position)
        assert set(said) == {"answer", "when"}
        assert said["when"] == "No block leads clearly to any class."
    assert "a flat answer" in told(explorer)["answer"]


def test_the_numbers_are_the_analyses_own(explorer, demo):
    model, paths = demo
    image = model.to_images(paths[0])
    index = explorer.facts["pictures"][0]["classes"][0]
    probabilities = model(image, return_type="probs")[0]
    said = told(explorer)
    assert f"“{model.class_label(index)}” {plain(percent(probabilities[index].item()))}" in said["answer"]
    assert plain(explorer.facts["title"]) == f"{model.class_label(index)} {100 * probabilities[index].item():.0f} %"
    heads = direct_logit_attribution(model, image, index, unit="head").head_map()
    block, head = divmod(int(heads.argmax()), heads.shape[1])
    assert f"L{block}H{head} most, {signed(heads.max().item())}" in said["who"]
    ranks = class_lens(model, image, index, tokens="pooled").ranks[0, :, 0, 0, 0]
    first = 1 + max([block for block, rank in enumerate(ranks.tolist()) if rank], default=-1)
    assert f"block {first}" in said["when"] or f"block, {first}" in said["when"]
    kept = activation_ablation(model, image, index, sites="z", metric="probability", progress=False).patched
    assert f"it keeps at least {plain(percent(kept.min().item()))}" in said["cause"]
    removed = {"sites": "mlp_out", "tokens": "all", "metric": "logit"}
    without = activation_ablation(model, image, index, **removed, progress=False).patched
    costs = [signed(cost) for cost in (model(image)[0, index] - without).flatten().tolist()]
    assert re.search(r"costs most, (\S+) logits", said["cause"]).group(1) in costs


def test_every_part_leads_to_a_panel_of_the_page(explorer):
    for facts in explorer.facts["pictures"]:
        assert list(facts["sentences"]) == [str(index) for index in facts["classes"]]
        for sentences in facts["sentences"].values():
            assert 2 <= len(sentences) <= 7
            for sentence in sentences:
                text = "".join(text for text, *_ in sentence["parts"])
                assert text.endswith(".")
                assert "  " not in text
                panels = [panel.partition(":") for _, panel, *_ in sentence["parts"] if panel is not None]
                assert panels
                assert all(panel in PANELS and layer in LAYERS | {""} for panel, _, layer in panels)


def test_a_part_chooses_what_it_names(explorer, pages):
    for facts in (explorer.facts, pages["large_distractor"][0].facts):
        n_prefix, columns = len(facts["prefix"]), facts["grid"][1]
        parts = [part for picture in facts["pictures"] for each in picture["sentences"].values() for one in each
                 for part in one["parts"]]  # fmt: skip
        for text, panel, *rest in parts:
            choose = rest[0] if rest else {}
            assert choose.keys() <= {"block", "head", "tokens", "layer"}
            assert "layer" not in choose or panel == f"picture:{choose['layer']}"
            for block, head in re.findall(r"\bL(\d+)H(\d+)", text) if panel else ():
                assert (choose["block"], choose["head"]) == (int(block), int(head))
            for block in re.findall(r"MLP of block (\d+)", text) if panel else ():
                assert (choose["block"], choose["head"]) == (int(block), "mlp")
            for row, column in re.findall(r"patch \((\d+), (\d+)\)", text) if panel else ():
                assert choose["tokens"] == [n_prefix + int(row) * columns + int(column)]
            for n in re.findall(r"(\d+) (?:scattered )?patch", text) if panel else ():
                assert len(choose["tokens"]) == int(n) or "of the 5" in text
        assert sum(len(part) == 3 for part in parts) > len(parts) / 6


@pytest.fixture(scope="module")
def subject():
    """A picture of the demo, whose measurements can be changed."""
    model = load_demo_model()
    image = model.to_images(load_demo_pictures(model).paths[0])
    measured = measure_picture(model, image, "a", [int(model(image).argmax())], Settings(list(range(6)), 2, 1000))
    return Subject(measured, 0, model.class_label, list(range(6)), 6, (14, 14), ("class",))


def changed(subject: Subject, **tensors: np.ndarray) -> dict[str, str]:
    measured = replace(subject.measured, tensors=subject.tensors | tensors)
    return {sentence.kind: plain(sentence.text) for sentence in sentences_about(replace(subject, measured=measured))}


def test_artefact_tokens_are_told_where_the_head_that_writes_most_looks_at_them(subject):
    head = max((part for part in subject.parts if part.is_head), key=lambda part: part.direct)
    model = load_demo_model()
    _, cache = model.run_with_cache(model.to_images(load_demo_pictures(model).paths[0]), names_filter="pattern")
    looked = cache["pattern", head.place[0]][0, head.place[1], 0].numpy()
    np.testing.assert_allclose(subject.attention(*head.place), looked, atol=0.01)
    # Those that the heatmap marks most would be told first.
    free = np.argsort(-np.abs(subject.tensors["heatmap"][0]))[5:]
    order = free[np.argsort(-looked[1:][free])]
    for chosen, is_told in ((order[:40], True), (order[-1:], False)):
        outliers = np.zeros(196, dtype=np.uint8)
        outliers[chosen] = 1
        share = looked[1:][outliers > 0].sum()
        assert (share >= 0.2) == is_told
        warning = changed(subject, outliers=outliers).get("warning", "")
        assert (f"{100 * share:.0f} % of the attention of {head.name} goes to them" in warning) == is_told
        assert ("artefact" in warning) == is_told


def test_a_step_within_the_spread_of_random_draws_is_none(subject):
    curves = subject.tensors["removal_curves"].copy()
    curves[2:] = subject.probability + np.linspace(-0.01, 0.02, len(curves) - 2)[:, None]
    assert "at random it stays near" in changed(subject, removal_curves=curves)["where"]
    curves[2:, :] = np.linspace(0.01, min(0.99, subject.probability + 0.001), len(curves) - 2)[:, None]
    assert "at random it has" in changed(subject, removal_curves=curves)["where"]
    curves[2:] = subject.probability + 0.2
    assert "at random it rises to" in changed(subject, removal_curves=curves)["where"]


def test_a_map_that_is_no_better_than_random_is_told(subject):
    curves = subject.tensors["removal_curves"].copy()
    assert "random draws" not in changed(subject)["where"]
    curves[0] = curves[2:].mean(axis=0)
    assert "this map is no better than random here" in changed(subject, removal_curves=curves)["where"]
    curves[0] = np.sort(curves[2:], axis=0)[0]
    assert "1 of 5 random draws does as much" in changed(subject, removal_curves=curves)["where"]
    curves[0] = np.nan
    assert "shows no place" in changed(subject, removal_curves=curves)["where"]


def test_parts_that_break_every_answer_do_not_count_as_the_most_costly(subject):
    """A class from far off leads without them, and the runner-up falls as the class does."""
    worst = max(subject.parts, key=lambda part: part.cost)
    logits, top = subject.tensors["effect_logits"].copy(), subject.tensors["effect_top"].copy()
    place = subject.measured.facts["classes"].index(subject.rival)
    far = int(subject.tensors["answer_logits"].argmin())
    top[worst.cell] = far
    logits[worst.cell, 0] = subject.logit - 30
    logits[worst.cell, place] = subject.tensors["answer_logits"][subject.rival]
    said = changed(subject, effect_logits=logits, effect_top=top)["cause"]
    assert f"{worst.name} costs most, +30.00 logits" in said
    logits[worst.cell, place] -= 20
    said = changed(subject, effect_logits=logits, effect_top=top)["cause"]
    assert f"Apart from {worst.name}, which breaks any answer, " in said
    assert f"{worst.name} costs most" not in said


def test_a_removal_can_raise_the_answer(subject):
    heads = [part for part in subject.parts if part.is_head]
    writer, other = (f(heads, key=lambda part: part.direct) for f in (max, min))
    lse = subject.tensors["effect_lse"].copy()
    lse[writer.cell] = subject.tensors["effect_logits"][writer.cell, 0] + 1e-5
    lse[other.cell] += 10
    said = changed(subject, effect_lse=lse)["cause"]
    assert said.startswith(f"Without {writer.name} it rises to > 99.9 %")


def test_the_block_above_half(subject):
    probabilities = subject.tensors["reading_probability"].copy()
    ranks = subject.tensors["reading_rank"].copy()
    ranks[:, 0] = [3, 1, 0, 0, 0, 0]
    probabilities[:, 0] = [0.01, 0.1, 0.2, 0.3, 0.8, 0.9]
    said = changed(subject, reading_rank=ranks, reading_probability=probabilities)["when"]
    assert said == "From block 2 on it stays first, 20 % there, above 50 % from block 4 on (class lens)."
    probabilities[:, 0] = [0.01, 0.1, 0.2, 0.6, 0.7, 0.9]
    said = changed(subject, reading_rank=ranks, reading_probability=probabilities)["when"]
    assert "above 50 % from block 3 on (class lens)" in said
    probabilities[:, 0] = [0.01, 0.1, 0.7, 0.72, 0.74, 0.99]
    said = changed(subject, reading_rank=ranks, reading_probability=probabilities)["when"]
    assert said == "From block 2 on it stays first, 70 % there (class lens)."


def test_a_class_that_leads_in_a_block_that_is_not_shown(subject):
    ranks = subject.tensors["reading_rank"].copy()
    ranks[-1, 0] = 2
    assert changed(subject, reading_rank=ranks)["when"].startswith("It is not yet first after block 5, the last that")
    ranks[:] = 1
    ranks[-1, 0] = 0
    assert changed(subject, reading_rank=ranks)["when"].startswith("It is first only after the last block, 5")

    measured = replace(subject.measured, tensors=subject.tensors | {"reading_rank": ranks})
    said = {each.kind: each.text for each in sentences_about(replace(subject, n_layers=9, measured=measured))}
    assert said["when"].startswith("It is first only after the last block shown, 5")


def test_what_was_not_measured_is_not_told(subject):
    tensors = {name: value for name, value in subject.tensors.items() if not name.startswith(("effect", "removal"))}
    said = [
        each.kind for each in sentences_about(replace(subject, measured=replace(subject.measured, tensors=tensors)))
    ]
    assert said == ["answer", "when", "who"]
    lse = np.full_like(subject.tensors["effect_lse"], np.nan)
    estimated = changed(subject, effect_lse=np.where(np.arange(len(lse)) < 196, subject.tensors["effect_lse"], lse))
    assert "its logit falls by" in estimated["cause"]
    assert "(estimated)" in estimated["cause"]


def test_an_incomplete_map_is_warned_of(subject):
    facts = subject.measured.facts
    maps = [facts["heatmaps"][0] | {"gap": 0.6}, *facts["heatmaps"][1:]]
    measured = replace(subject.measured, facts=facts | {"heatmaps": maps})
    said = {each.kind: each.text for each in sentences_about(replace(subject, measured=measured))}
    assert said["warning"].startswith("The heatmap is not complete")


def test_models_of_other_kinds(variant):
    for name, first in (("registers", "answer"), ("average_without_class_token", "answer"), ("no_classifier", None)):
        model, images = variant(name, 1)
        explorer = explore(model, images, n_classes=3, progress=False)
        sentences = explorer.facts["pictures"][0]["sentences"]
        assert [each[0]["kind"] for each in sentences.values()] == ([first] * 3 if first else [])
    one = model.with_class_embeddings(torch.randn(1, model.cfg.d_model, dtype=model.dtype))
    said = told(explore(one, images, progress=False))
    assert re.match(r"The model's single output is [+−]?\d", said["answer"])
    # A probability among one class is always 1.
    assert "%" not in said["cause"]
    assert "its logit" in said["cause"]
    assert "when" not in said
    three = model.with_class_embeddings(torch.randn(3, model.cfg.d_model, dtype=model.dtype), output="identity")
    assert re.match(r"“class 0” is [+−]?\d", told(explore(three, images, progress=False))["answer"])


def test_a_sigmoid_says_yes_or_no_and_from_where_on(variant):
    model, images = variant("registers", 1)
    weight = torch.randn(3, model.cfg.d_model, dtype=model.dtype)
    several = model.with_class_embeddings(weight, output="sigmoid")
    explorer = explore(several, images, progress=False)
    said, logits = told(explorer), several(images)[0].detach()
    best, n_yes = int(logits.argmax()), int((logits > 0).sum())
    share = plain(percent(float(logits[best].sigmoid())))
    assert plain(said["answer"]).startswith(f"“class {best}” {share}; {n_yes} of 3 outputs ")
    assert "leads" not in said.get("cause", "")
    reading = class_lens(several, images, best, tokens="pooled").probabilities[0, :, 0, 0, 0] > 0.5
    flips = (reading != reading[-1]).nonzero().flatten().tolist()
    first = flips[-1] + 1 if flips else 0
    side = "above" if reading[-1] else "at most"
    assert plain(said["when"]) == f"It is {side} 50 % from block {first} on (class lens)."
    one = model.with_class_embeddings(weight[:1], output="sigmoid")
    share = plain(percent(float(one(images)[0, 0].detach().sigmoid())))
    assert plain(told(explore(one, images, progress=False))["answer"]) == f"The model's single output is {share}."


def test_how_numbers_and_places_are_said():
    assert [plain(percent(p)) for p in (0, 0.0001, 0.002, 0.5725, 0.57, 0.9999, 1)] == [
        "0 %", "< 0.1 %", "0.2 %", "57.2 %", "57 %", "> 99.9 %", "100 %",
    ]  # fmt: skip
    assert [signed(x) for x in (2.751, -0.3, 0.004, -0.004)] == ["+2.75", "−0.30", "0.00", "0.00"]
    assert where_lie([17], (14, 14)) == "patch (1, 3)"
    assert where_lie([17, 18, 31], (14, 14)) == "3 patches in rows 1 to 2, columns 3 to 4"
    assert where_lie([195, 0], (14, 14)) == "2 scattered patches, (13, 13) first"
    assert [plain(moved(0.5, p)) for p in (0.2, 0.7, 0.50001)] == ["falls to 20 %", "rises to 70 %", "stays at 50 %"]
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    np.testing.assert_array_equal(leading(np.array([1.0, -9, 4, 3]), 0.5), [False, False, True, False])
