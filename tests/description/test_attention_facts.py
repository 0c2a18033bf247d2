"""Distance, entropy and masses on patterns made by hand, and of every architecture against loops over a full cache."""

import math

import pytest
import torch
from ported import build, on_each_property
from variants import pictures

from vitlens.description.attention_facts import attention_facts, entropy, shares
from vitlens.description.run import describe
from vitlens.description.tokens import outlier_patches, token_layout


def same(left, right):
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


def kind_of(label):
    return "register" if label.startswith("register") else label


def facts_of(rows, prefix, grid, patch_size, outlier):
    """The facts of one pattern, number by number."""
    n_prefix, n_patches = len(prefix), grid[0] * grid[1]
    kinds = list(dict.fromkeys(kind_of(label) for label in prefix))

    def place(patch):
        return (patch // grid[1] * patch_size[0], patch % grid[1] * patch_size[1])

    def near(i, j):
        steps = abs(i // grid[1] - j // grid[1]), abs(i % grid[1] - j % grid[1])
        return max(steps) == 1

    def row_entropy(row):
        return -sum(p * math.log(p) for p in row if p > 0)

    per_patch = []
    for i in range(n_patches):
        row = rows[n_prefix + i]
        among = row[n_prefix:]
        found = {"distance": sum(p * math.dist(place(i), place(j)) for j, p in enumerate(among)) / sum(among)}
        found["patch_entropy"] = row_entropy(row)
        for kind in kinds:
            found[f"patch_to_{kind}"] = sum(row[t] for t in range(n_prefix) if kind_of(prefix[t]) == kind)
        found["patch_to_self"] = among[i]
        found["patch_to_neighbours"] = sum(p for j, p in enumerate(among) if near(i, j))
        found["patch_to_rest"] = sum(p for j, p in enumerate(among) if j != i and not near(i, j))
        found["patch_to_outliers"] = sum(p for j, p in enumerate(among) if outlier[j])
        per_patch.append(found)
    facts = {name: sum(found[name] for found in per_patch) / n_patches for name in per_patch[0]}
    if "class" in prefix:
        row = rows[prefix.index("class")]
        facts["class_entropy"] = row_entropy(row)
        for kind in kinds:
            facts[f"class_to_{kind}"] = sum(row[t] for t in range(n_prefix) if kind_of(prefix[t]) == kind)
        facts["class_to_patch"] = sum(row[n_prefix:])
        facts["class_to_outliers"] = sum(p for j, p in enumerate(row[n_prefix:]) if outlier[j])
    return facts


@on_each_property
def test_every_architecture_has_the_facts_of_its_patterns(classifier, images_of):
    """Outliers of a threshold that random streams cross, so that their masses are not all 0."""
    cfg, images = classifier.cfg, images_of(classifier, 3)
    description = describe(classifier, images, outlier_threshold=1.05, progress=False)
    _, cache = classifier.run_with_cache(images, names_filter=["pattern", "resid_pre"])
    grid = classifier.embed.grid(*images.shape[-2:])
    for block in range(cfg.n_layers):
        norms = cache["resid_pre", block][:, cfg.n_prefix_tokens :].norm(dim=-1)
        outlier = norms > 1.05 * norms.median(dim=-1, keepdim=True).values
        sizes = cache["pattern", block].abs()
        rows = sizes / sizes.sum(dim=-1, keepdim=True)
        for head in range(cfg.n_heads):
            found = [
                facts_of(rows[i, head].tolist(), cfg.prefix_tokens, grid, cfg.patch_size, outlier[i].tolist())
                for i in range(3)
            ]
            for name in found[0]:
                expected = sum(facts[name] for facts in found) / 3
                assert description.fact(name)[block, head].item() == pytest.approx(expected, rel=1e-9, abs=1e-9), name
    names = {*found[0]} | {name for name in description.facts if name.startswith("sink_")} | {"stable_rank"}
    assert set(description.facts) == names
    assert ("class_entropy" in names) == cfg.has_class_token
    assert description.fact("patch_to_outliers").any()
    masses = [name for name in names if name.startswith("patch_to_") and not name.endswith("outliers")]
    same(sum(description.fact(name) for name in masses), torch.ones(cfg.n_layers, cfg.n_heads, dtype=torch.float64))


@pytest.fixture
def layout(plain):
    """One class token and 3 × 3 patches of 16 × 16 pixels."""
    return token_layout(plain, 48, 48)


def on(pattern, layout, outlier=None):
    patches = torch.zeros(1, 9, dtype=torch.bool)
    if outlier is not None:
        patches[0, outlier] = True
    return {name: x.item() for name, x in attention_facts(pattern[None, None].double(), layout, patches).items()}


def test_attention_to_oneself(layout):
    facts = on(torch.eye(10), layout)
    assert (facts["distance"], facts["patch_entropy"], facts["patch_to_self"]) == (0, 0, 1)
    assert (facts["class_to_class"], facts["class_to_patch"], facts["patch_to_neighbours"]) == (1, 0, 0)


def test_attention_that_is_everywhere_alike(layout):
    facts = on(torch.full((10, 10), 0.1), layout, outlier=4)
    assert facts["patch_entropy"] == pytest.approx(math.log(10))
    assert facts["class_entropy"] == pytest.approx(math.log(10))
    assert facts["patch_to_outliers"] == pytest.approx(0.1)
    # A corner has 3 neighbours, an edge 5, the middle 8.
    assert facts["patch_to_neighbours"] == pytest.approx(0.1 * (4 * 3 + 4 * 5 + 8) / 9)
    assert facts["patch_to_rest"] == pytest.approx(0.9 - 0.1 - facts["patch_to_neighbours"])
    distances = [math.dist((a // 3, a % 3), (b // 3, b % 3)) for a in range(9) for b in range(9)]
    assert facts["distance"] == pytest.approx(16 * sum(distances) / 81)


def test_attention_one_patch_to_the_right(layout):
    pattern = torch.zeros(10, 10)
    pattern[0, 5] = 1
    for patch in range(9):
        pattern[1 + patch, 1 + (patch + 1 if patch % 3 < 2 else patch)] = 0.5
        pattern[1 + patch, 0] = 0.5
    facts = on(pattern, layout, outlier=4)
    # The class token's half is no distance: patches alone are renormalised.
    assert facts["distance"] == pytest.approx(16 * 6 / 9)
    assert facts["patch_to_class"] == pytest.approx(0.5)
    assert facts["patch_to_neighbours"] == pytest.approx(0.5 * 6 / 9)
    assert facts["patch_entropy"] == pytest.approx(math.log(2))
    assert (facts["class_to_outliers"], facts["class_entropy"]) == (1, 0)


def test_patches_that_are_not_square():
    layout = token_layout(build("wide_patches"), 48, 48)
    assert layout.grid == (4, 2)
    same(layout.distance[0, 1], torch.tensor(24.0, dtype=torch.float64))
    same(layout.distance[0, 2], torch.tensor(12.0, dtype=torch.float64))
    same(layout.distance[0, 7], torch.tensor(math.hypot(36, 24), dtype=torch.float64))


def test_layout_of_another_size():
    model = build("dynamic_size")
    assert token_layout(model, 32, 64).grid == (2, 4)
    description = describe(model, torch.randn(2, 3, 32, 64, dtype=torch.float64), progress=False)
    assert description.outlier_counts.shape == (3, 2, 4)


def test_kinds_of_tokens(distilled):
    assert token_layout(distilled, 48, 48).kinds == ["class", "distillation", "patch"]
    layout = token_layout(build("rotary_dynamic_size"), 32, 48)
    assert layout.kinds == ["class", "register", "patch"]
    assert layout.of_kind("register").nonzero()[:, 0].tolist() == [1, 2, 3, 4]
    assert token_layout(build("average_without_class_token"), 48, 48).class_token is None


def test_shares_of_negative_attention():
    pattern = torch.tensor([[[[0.5, -0.5, 1.0], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]]], dtype=torch.float64)
    expected = torch.tensor([[0.25, 0.25, 0.5], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]], dtype=torch.float64)
    same(shares(pattern)[0, 0], expected)
    assert entropy(torch.tensor([1.0, 0.0])) == 0


def test_outliers_are_those_of_register_neurons():
    norms = torch.tensor([[1.0, 2, 3, 4, 100], [1.0, 1, 1, 1, 5]])
    assert outlier_patches(norms, 5.0).tolist() == [[False] * 4 + [True], [False] * 5]


def test_half_precision_is_reduced_in_single():
    model = build("class_token")
    images = pictures(model.cfg, 4).to(torch.bfloat16)
    exact = describe(model.to(torch.float64), images.double(), progress=False)
    rough = describe(model.to(torch.bfloat16), images, progress=False)
    assert torch.allclose(rough.fact("patch_entropy"), exact.fact("patch_entropy"), atol=0.02)
    assert torch.allclose(rough.fact("stable_rank"), exact.fact("stable_rank"), rtol=0.1)
    assert torch.allclose(rough.head_similarity.diagonal(), torch.ones(12, dtype=torch.float64), atol=1e-5)
