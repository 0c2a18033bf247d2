"""Every command says the numbers of the library's call: on the demo model, and on a timm model of random weights."""

import json
import re

import pandas as pd
import pytest
import torch
from cli.conftest import AGREEING, CONFLICTING, DEMO, FEW_BLOCKS, MASK, SMALL, TIMM

import vitlens
from vitlens.choose import patch
from vitlens.choose.metrics import class_metric
from vitlens.cli.main import app
from vitlens.model.runs import progress_bar


def column(rows: list[dict], name: str) -> list:
    return [row[name] for row in rows]


def numbers(frame: pd.DataFrame, name: str) -> list:
    return frame[name].astype(float).tolist()


@pytest.mark.parametrize("tokens", ["class", "patches", "patch:3,4"])
def test_lens(run, case, tokens):
    model, options = case
    done = run("lens", AGREEING, CONFLICTING, "--tokens", tokens, "--site", "resid_mid", "--site", "resid_post",
               "--block", 0, "--block", -1, "--top", 3, "--json", *options)  # fmt: skip
    assert (done.code, done.stderr) == (0, "")
    chosen = vitlens.choose.patch(3, 4) if tokens.startswith("patch:") else tokens
    lens = vitlens.class_lens(
        model, [AGREEING, CONFLICTING], sites=["resid_mid", "resid_post"], blocks=[0, -1], tokens=chosen, k=3
    )
    for name in ("logit", "rank", "probability", "identifiability"):
        assert column(done.json["rows"], name) == numbers(lens.to_frame(), name)
    assert set(column(done.json["rows"], "picture")) == {str(AGREEING), str(CONFLICTING)}
    assert len(done.json["blocks"]) == 2 * 2 * 2
    # Rows of the summary go picture by picture, those of the lens site by site.
    means = lens.values.double().mean(dim=3)[..., 0].permute(2, 0, 1).flatten().tolist()
    assert column(done.json["blocks"], "logit") == means
    if tokens == "class":
        first = done.json["blocks"][3]["first_classes"]
        assert column(first, "class") == lens.top_names(1, site="resid_post")
        assert column(first, "logit") == lens.top_logits[1, 1, 0, 0].tolist()


def test_a_lens_ends_at_the_models_answer(run, demo):
    done = run("lens", AGREEING, "--class", "coat", "--class", 0, "--json")
    logits = demo(demo.to_images(AGREEING))[0]
    last = done.json["blocks"][-2:]
    assert column(last, "class") == ["coat", "T-shirt"]
    assert column(last, "logit") == pytest.approx([logits[4].item(), logits[0].item()], abs=1e-5)


def test_a_lens_at_all_sites_of_several_batches(run, demo):
    done = run("lens", AGREEING, CONFLICTING, AGREEING, "--site", "all", "--batch-size", 2, "--json")
    lens = vitlens.class_lens(demo, [AGREEING, CONFLICTING, AGREEING], sites="all", tokens="class").to_frame()
    found = pd.DataFrame(done.json["rows"]).sort_values(["site", "block", "image"])
    expected = lens.sort_values(["site", "block", "image"])
    assert found["image"].tolist() == expected["image"].tolist()
    assert numbers(found, "logit") == pytest.approx(numbers(expected, "logit"), abs=1e-5)


@pytest.mark.parametrize("unit", ["component", "head", "head_patch", "neuron", "token", "path"])
def test_attribute(run, case, unit):
    model, options = case
    done = run("attribute", AGREEING, CONFLICTING, "--unit", unit, "--class", 1, "--against-class", 2, "--top", 4,
               "--batch-size", 1, "--json", *options)  # fmt: skip
    assert (done.code, done.stderr) == (0, "")
    both = vitlens.direct_logit_attribution(model, [AGREEING, CONFLICTING], 1, baseline_classes=2, unit=unit)
    frame = both.to_frame()
    assert column(done.json["rows"], "logit difference") == pytest.approx(numbers(frame, "logit difference"), abs=1e-5)
    totals = done.json["totals"]
    assert column(totals, "logit") == pytest.approx(both.logits[:, 0].tolist(), abs=1e-5)
    for image, picture in enumerate((AGREEING, CONFLICTING)):
        top = [row for row in done.json["top"] if row["picture"] == str(picture)]
        assert column(top, "component") == both.top(4, image)["component"].tolist()
        rows = [row["logit difference"] for row in done.json["rows"] if row["image"] == image]
        rest = [row["logit"] for row in done.json["elsewhere"] if row["picture"] == str(picture)]
        assert sum(rows) + sum(rest) == pytest.approx(totals[image]["logit"], abs=1e-4)
        assert abs(totals[image]["residual"]) < 1e-4


def test_attribute_shows_that_the_parts_sum_to_the_logit(run, demo):
    done = run("attribute", AGREEING, "--top", 3)
    logit = demo(demo.to_images(AGREEING)).max().item()
    assert f"sum = logit {logit:+.4f} (residual" in done.stdout
    assert "all else" in done.stdout
    top = vitlens.direct_logit_attribution(demo, AGREEING).top(3)
    for part, share in zip(top["component"], top["logit"], strict=True):
        assert part in done.stdout
        assert f"{share:+.4f}" in done.stdout


@pytest.mark.parametrize(
    ("options", "call"),
    [
        (["--tokens", "class", "--tokens", "patch:3,4"], {"tokens": {"class": "class", "patch:3,4": patch(3, 4)}}),
        (["--site", "z", "--head", 1, "--direction", "noise"], {"sites": "z", "heads": [1], "direction": "noise"}),
        (["--site", "attn_out", "--metric", "logit", "--class", 2, "--tokens", "box:1,1,2,3"],
         {"sites": "attn_out", "metric": "logit", "classes": 2, "tokens": {"box:1,1,2,3": vitlens.choose.box(1, 1, 2, 3)}}),
    ],
)  # fmt: skip
def test_patch(run, case, options, call):
    model, of_model = case
    done = run("patch", AGREEING, CONFLICTING, "--block", 1, "--block", -1, *options, "--json", *of_model)
    assert (done.code, done.stderr) == (0, "")
    result = vitlens.activation_patching(model, AGREEING, CONFLICTING, blocks=[1, -1], progress=False, **call)
    assert column(done.json["rows"], "effect") == numbers(result.to_frame(), "effect")
    assert done.json["metric"]["unpatched"] == result.target.item()
    assert done.json["metric"]["source"] == result.source.item()
    strongest = result.effect().abs().max().item()
    assert abs(done.json["top"][0]["effect"]) == strongest


def test_patch_of_every_token_names_the_classes(run, demo):
    done = run("patch", AGREEING, CONFLICTING, "--block", 2, "--json")
    assert len(done.json["rows"]) == 197
    clean, corrupted = (demo(demo.to_images(picture)) for picture in (AGREEING, CONFLICTING))
    metric = class_metric(demo, clean, corrupted, None, metric="logit_difference", baseline_classes=None)
    assert done.json["class"] == demo.class_label(int(metric.classes[0]))
    assert done.json["against"] == demo.class_label(int(metric.baseline[0]))


@pytest.mark.parametrize("how", ["blur", "mean", "zero", "shuffle", "other"])
def test_patch_with_another_context(run, demo, how):
    donor = [CONFLICTING] if how == "other" else []
    done = run("patch", AGREEING, *donor, "--mask", MASK, "--replace-context", how, "--metric", "logit", "--json")
    assert (done.code, done.stderr) == (0, "")
    images, mask = demo.to_images(AGREEING), demo.to_masks(MASK)
    donors = demo.to_images(CONFLICTING) if donor else None
    made = vitlens.replace_context(images, mask, replacement=how, others=donors, patch_size=demo.cfg.patch_size)
    tokens = {name: name for name in ("object", "context", "class")}
    result = vitlens.activation_patching(demo, images, made, metric="logit", tokens=tokens, masks=mask, progress=False)
    assert column(done.json["rows"], "effect") == numbers(result.to_frame(), "effect")
    shown = run("patch", AGREEING, *donor, "--mask", MASK, "--replace-context", how, "--metric", "logit").stdout
    assert f"{result.effect()[0, 1].item():+.3f}" in shown


def test_similarity(run, demo):
    about = ("similarity", AGREEING, CONFLICTING, "--hook", "resid_post3", "--json")
    done = run(*about, "--top", 3)
    assert (done.code, done.stderr) == (0, "")
    pca = vitlens.similarity.patch_pca(demo, [AGREEING, CONFLICTING], hook="resid_post3")
    assert column(done.json["rows"], "score") == pytest.approx(numbers(pca.to_frame(), "score"), abs=1e-5)
    assert column(done.json["components"], "share of the variance") == pytest.approx(pca.variance_shares.tolist())
    pairs = vitlens.similarity.nearest_patches(demo, AGREEING, others=CONFLICTING, hook="resid_post3").pairs(k=3)
    assert column(done.json["pairs"], "patch") == [str(patch) for patch, _, _ in pairs]
    assert column(done.json["pairs"], "other_patch") == [str(patch) for _, patch, _ in pairs]
    assert column(done.json["pairs"], "similarity") == pytest.approx([value for *_, value in pairs], abs=1e-6)
    like = vitlens.similarity.patch_similarity(demo, [AGREEING, CONFLICTING], queries=patch(3, 4), hook="resid_post3")
    done = run(*about, "--tokens", "patch:3,4", "--top", 2)
    assert column(done.json["rows"], "similarity") == pytest.approx(numbers(like.to_frame(), "similarity"), abs=1e-6)
    assert [row["patch"] for row in done.json["top"]][::2] == ["(3, 4)"] * 2


def test_heatmap(run, case):
    model, options = case
    done = run("heatmap", AGREEING, CONFLICTING, "--method", "grad_cam", "--method", "raw attention", "--class", 3,
               "--top", 4, "--json", *options)  # fmt: skip
    assert (done.code, done.stderr) == (0, "")
    for method in ("grad_cam", "raw_attention"):
        expected = vitlens.heatmap(model, [AGREEING, CONFLICTING], 3, method=method)
        rows = [row for row in done.json["rows"] if row["method"] == method]
        assert column(rows, "importance") == numbers(expected.to_frame(), "importance")
        top = [row for row in done.json["top"] if (row["method"], row["picture"]) == (method, str(CONFLICTING))]
        assert [[row["row"], row["column"]] for row in top] == expected.top(4, 1)[["row", "column"]].to_numpy().tolist()
    about = {row["method"]: row["class"] for row in done.json["maps"]}
    assert about == {"grad_cam": model.class_label(3), "raw_attention": None}


def test_heatmap_by_default_and_its_faithfulness(run, demo):
    done = run("heatmap", AGREEING, CONFLICTING, "--faithfulness", "--n-steps", 3, "--json")
    assert (done.code, done.stderr) == (0, "")
    pictures = [AGREEING, CONFLICTING]
    maps = {"token_mask": vitlens.heatmap(demo, pictures)}
    assert column(done.json["rows"], "importance") == numbers(maps["token_mask"].to_frame(), "importance")
    table = vitlens.evaluate_heatmaps(demo, pictures, heatmaps=maps, n_steps=3, progress=False).summary()
    scores = {(row["method"], row["metric"]): row for row in done.json["faithfulness"]}
    assert len(scores) == table.shape[0] * table.shape[1] // 3
    for method in table.index:
        for metric in ("deletion", "insertion", "negative", "positive"):
            for end in ("mean", "low", "high"):
                assert scores[method, metric][end] == pytest.approx(table.loc[method, (metric, end)], abs=1e-6)


@pytest.mark.verified_timm
def test_all_heatmaps_of_a_tower_leave_out_those_of_a_class(run):
    done = run(
        "heatmap", AGREEING, "--method", "all", "--model", "vit_small_patch16_dinov3", "--random-weights", "--json"
    )
    assert (done.code, done.stderr) == (0, "")
    drawn = {row["method"] for row in done.json["maps"]}
    table = vitlens.heatmaps.heatmap_methods()
    assert drawn == set(table.index[~table["class_specific"]])
    left_out = [note for note in done.json["notes"] if note.startswith("left out ")]
    assert len(left_out) == table["class_specific"].sum()


def test_describe(run, case):
    model, options = case
    done = run("describe", AGREEING, CONFLICTING, "--json", *options)
    assert (done.code, done.stderr) == (0, "")
    description = vitlens.describe(model, [AGREEING, CONFLICTING], progress=False)
    for name in description.facts:
        assert column(done.json["rows"], name) == numbers(description.heads, name)
    assert done.json["warnings"] == description.warnings
    assert column(done.json["blocks"], "patch_norm_max") == numbers(description.blocks, "patch_norm_max")


def test_describe_a_folder_with_a_broken_picture(run, demo, tmp_path):
    (tmp_path / "deep").mkdir()
    for i, picture in enumerate((AGREEING, CONFLICTING)):
        (tmp_path / "deep" / f"{i}.png").write_bytes(picture.read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    (tmp_path / "notes.txt").write_text("no picture")
    done = run("describe", "--data", tmp_path, "--json", "--out", tmp_path / "page.html")
    assert done.code == 0
    assert (done.json["n_images"], done.json["left_out"]) == (2, 1)
    assert any("1 of 3 files could not be read" in note for note in done.json["notes"])
    expected = vitlens.describe(demo, [AGREEING, CONFLICTING], progress=False)
    assert column(done.json["rows"], "distance") == pytest.approx(numbers(expected.heads, "distance"), rel=1e-5)
    assert run("describe", "--data", "demo", "--n-images", 3, "--json").json["n_images"] == 3


def facts_of(page):
    """What a page's scripts know."""
    found = re.search(r'<script type="application/json" id="facts">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(found[1])


def test_open(run, case, tmp_path):
    model, options = case
    page = tmp_path / "page.html"
    done = run("open", AGREEING, "--block", -1, "--out", page, "--json", *options)
    assert (done.code, done.stderr) == (0, "")
    assert done.json == {
        "command": "open",
        "model": model.cfg.model_name,
        "wrote": str(page),
        "bytes": page.stat().st_size,
    }
    facts = facts_of(page)
    assert [picture["name"] for picture in facts["pictures"]] == [AGREEING.name]
    assert (facts["selection"]["block"], facts["selection"]["head"]) == (model.cfg.n_layers - 1, None)


def test_features(run, tmp_path):
    """The page of a dictionary, and its labels from a file."""
    identity = torch.eye(96)
    sae = vitlens.features.SparseAutoencoder.from_arrays(identity, None, identity, None, hook="resid_post3")
    sae.save(tmp_path / "sae")
    model = vitlens.demo.load_demo_model()
    sae = vitlens.load_sae(tmp_path / "sae")
    explorer = vitlens.explore_features(model, sae, [AGREEING], shown=0, feature_labels={7: "hem"}, progress=False)
    explorer.save_labels(tmp_path / "labels.json")
    about = [
        "--dictionary",
        tmp_path / "sae",
        "--feature-labels",
        tmp_path / "labels.json",
        "--out",
        tmp_path / "page.html",
    ]
    done = run("features", AGREEING, CONFLICTING, *about, "--shown", 1, "--feature", 7, "--n-runs", 5, "--json")
    assert (done.code, done.stderr) == (0, "")
    assert done.json["bytes"] == (tmp_path / "page.html").stat().st_size
    facts = facts_of(tmp_path / "page.html")
    assert (facts["n_images"], facts["labels"], facts["pictures"][0]["doses"]["features"]) == (2, {"7": "hem"}, [7])
    assert facts["names"]["0"] == AGREEING.name


def test_graph(run, case, tmp_path):
    """The demo's graph goes through its transcoders, another model's through its neurons; the result is saved too."""
    model, options = case
    page, saved = tmp_path / "page.html", tmp_path / "graph.safetensors"
    about = ["--class", 2, "--n-nodes", 6, "--out", page, *options]
    done = run("graph", AGREEING, *about, "--save", saved, "--json")
    assert (done.code, done.stderr) == (0, "")
    assert done.json["bytes"] == page.stat().st_size
    transcoders = None if options else vitlens.demo.load_demo_transcoders()
    expected = vitlens.attribution_graph(model, [AGREEING], 2, transcoders=transcoders, n_nodes=6)
    graph = vitlens.load_result(saved, vitlens.circuits.AttributionGraph)
    assert torch.equal(graph.values, expected.values)
    assert facts_of(page)["pictures"][0]["name"] == AGREEING.name
    done = run("graph", AGREEING, CONFLICTING, *about, "--save", saved)
    assert (done.code, done.stderr.count("\n")) == (2, 1)
    assert "one by one" in done.stderr


def test_graph_takes_transcoders_from_a_folder(run, tmp_path):
    folder = DEMO / "dictionaries"
    done = run(
        "graph", AGREEING, "--transcoders", folder / "transcoders", "--n-nodes", 3, "--out", tmp_path / "page.html"
    )
    assert (done.code, done.stderr) == (0, "")
    done = run("graph", AGREEING, "--transcoders", folder / "sae", "--out", tmp_path / "other.html")
    assert (done.code, done.stderr.count("\n")) == (2, 1)
    assert "is no transcoder" in done.stderr
    done = run("graph", AGREEING, "--transcoders", "nowhere", "--out", tmp_path / "other.html")
    assert (done.code, done.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "other.html").exists()


def test_evaluate_sae(run, demo, tmp_path):
    """Measures of a dictionary, of a baseline and of a dictionary beside it; labels come from folders of classes."""
    generator = torch.Generator().manual_seed(0)
    for name in ("one", "two"):
        directions = torch.randn(60, 96, generator=generator)
        vitlens.features.SparseAutoencoder.from_arrays(
            directions.T, None, directions, None, activation="topk", k=4, hook="blocks.4.hook_resid_post"
        ).save(tmp_path / name)
    saes = {name: vitlens.load_sae(tmp_path / name) for name in ("one", "two")}
    done = run("evaluate-sae", "--dictionary", tmp_path / "one", "--beside", f"two={tmp_path / 'two'}", "--data", "demo",
               "--per-class", 1, "--baseline", "random", "--tokens", "class", "--out", tmp_path / "judged.safetensors",
               "--batch-size", 64, "--json")  # fmt: skip
    assert (done.code, done.stderr) == (0, "")
    expected = vitlens.features.evaluate_sae(
        demo, vitlens.open_pictures("demo", demo.class_names, 10, per_class=1), sae=saes["one"], baselines="random",
        beside={"two": saes["two"]}, tokens="class", batch_size=64, progress=False,
    )  # fmt: skip
    assert "loss_recovered_mean" in expected.axes["measure"]
    assert column(done.json["rows"], "value") == pytest.approx(numbers(expected.to_frame(), "value"), abs=1e-6)
    assert [row["dictionary"] for row in done.json["dictionaries"]] == ["dictionary", "random", "two"]
    assert any("all patches" in why for why in done.json["left_out"])
    assert vitlens.load_result(tmp_path / "judged.safetensors")["two", "l0"] == 4
    for wrong, sentence in {
        ("--beside", "two"): "--beside is written NAME=PATH",
        ("--group", "shoes="): "--group is written NAME=CLASS,CLASS,CLASS",
        (AGREEING,): "say which pictures",
    }.items():
        refused = run("evaluate-sae", "--dictionary", tmp_path / "one", "--data", "demo", *wrong)
        assert refused.code == 2
        assert sentence in refused.stderr
    shown = run("evaluate-sae", AGREEING, "--dictionary", tmp_path / "one", "--metric", "reconstruction", "--baseline",
                "none")  # fmt: skip
    assert shown.code == 0, shown.stderr
    assert "explained_variance_class: the rows do not differ" in shown.stdout


def test_open_by_another_name(run, tmp_path):
    """The same command whichever name is typed; what is shown first is as it was asked for."""
    commands = {info.name: info.callback for info in app.registered_commands}
    assert commands["open"] is commands["report"] is commands["explore"]
    model = ["--model", TIMM, "--random-weights", *FEW_BLOCKS]
    described = ["--out", tmp_path / "facts.safetensors"]
    assert run("describe", AGREEING, CONFLICTING, *model, *described).code == 0
    identity = torch.eye(192)
    vitlens.features.SparseAutoencoder.from_arrays(identity, None, identity, None).save(tmp_path / "sae")
    options = ["--class", 6, "--head", "l2h1", "--against", CONFLICTING, "--n-runs", 16, "--out", tmp_path / "page.html",
               "--description", tmp_path / "facts.safetensors", "--dictionary", tmp_path / "sae",
               "--hook", "resid_post1"]  # fmt: skip
    assert run("report", AGREEING, *model, *options).code == 0
    facts = facts_of(tmp_path / "page.html")
    assert [picture["name"] for picture in facts["pictures"]] == [AGREEING.name, CONFLICTING.name]
    assert [picture["classes"][0] for picture in facts["pictures"]] == [6, 6]
    assert facts["pictures"][0]["effects"]["heads"] == "estimated"
    assert (facts["selection"]["block"], facts["selection"]["head"]) == (2, 1)
    assert facts["pictures"][0]["swap"]["heads"] == "estimated"
    assert facts["data_set"]["n_images"] == 2
    assert facts["dictionary"]["n_features"] == 192
    assert "pass it with --dictionary" in run("open", AGREEING, "--hook", "resid_post1").stderr


def test_open_in_double_precision(run, tmp_path):
    model = ["--model", TIMM, "--random-weights", *FEW_BLOCKS]
    wrote = {}
    for dtype in ("float64", "float32"):
        page = tmp_path / f"{dtype}.html"
        done = run("open", AGREEING, *model, "--dtype", dtype, "--n-runs", 8, "--out", page)
        assert (done.code, done.stderr) == (0, "")
        wrote[dtype] = facts_of(page)
    assert wrote["float64"]["title"] == wrote["float32"]["title"]
    assert wrote["float64"] != wrote["float32"]


def test_models(run, tmp_path):
    done = run("models", "vit_tiny", "--out", tmp_path / "models.csv", "--json")
    table = vitlens.supported_models("vit_tiny")
    assert done.json == table.to_dict("records")
    assert pd.read_csv(tmp_path / "models.csv")["name"].tolist() == table["name"].tolist()


def test_verify(run):
    done = run("verify", TIMM, "--random-weights", *FEW_BLOCKS, "--dtype", "float32", "--images", 1, "--json")
    assert (done.code, done.stderr) == (0, "")
    assert done.json["exact"] is True
    assert {row["site"] for row in done.json["rows"]} >= {"block 3", "logits", "gradient"}


def test_reproduce(run, tmp_path, monkeypatch):
    monkeypatch.setattr(progress_bar, "LONG", -1.0)
    done = run(
        "reproduce", "--n-images", 4, "--experiment", "class_change", "--n-bootstrap", 10, "--out", tmp_path, "--json"
    )
    # Of long work it says how long, and names no argument: a shell has none.
    assert (done.code, done.stderr) == (0, "study: 1 chunks, about 0 min\n")
    assert done.json["n_pictures"] == 4
    for name, rows in done.json["tables"].items():
        assert len(rows) == len(pd.read_parquet(tmp_path / "tables" / f"{name}.parquet"))


def test_random_weights_are_the_same_every_time(run):
    random = ["--model", TIMM, "--random-weights", *FEW_BLOCKS, "--json"]
    first, again = run("lens", AGREEING, *random).json, run("lens", AGREEING, *random).json
    assert first == again
    torch.manual_seed(0)
    model = vitlens.HookedViT.from_timm(TIMM, pretrained=False, **SMALL)
    expected = vitlens.class_lens(model, AGREEING, tokens="class").to_frame()
    assert column(first["rows"], "logit") == numbers(expected, "logit")


# Half precisions go the same way through a command; tests/model has the arithmetic of each.
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_precisions(run, demo, dtype):
    plain = run("lens", AGREEING, "--json").json["blocks"][-1]["logit"]
    for arguments in (["lens", AGREEING], ["attribute", AGREEING], ["patch", AGREEING, CONFLICTING, "--tokens", "class"],
                      ["heatmap", AGREEING], ["describe", AGREEING]):  # fmt: skip
        assert run(*arguments, "--dtype", dtype, "--json").code == 0
    found = run("lens", AGREEING, "--dtype", dtype, "--json").json["blocks"][-1]["logit"]
    assert found == pytest.approx(plain, abs=1e-4 if dtype == "float64" else 0.2)
    assert found != plain


def test_class_names_come_from_a_file(run, checkpoint, tmp_path):
    names = [f"leaf [{i}]" for i in range(7)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    named = ["--model", TIMM, "--checkpoint", checkpoint, *FEW_BLOCKS, "--class-names", tmp_path / "names.txt"]
    done = run("attribute", AGREEING, *named, "--class", "leaf [6]", "--json")
    assert done.json["totals"][0]["class"] == "leaf [6]"
    # Brackets are rich's markup, and part of a name.
    assert "“leaf [6]”" in run("attribute", AGREEING, *named, "--class", "leaf [6]").stdout
    assert "leaf [" in run("lens", AGREEING, *named, "--block", 0).stdout
