"""Classifiers of several layers, norms, cosines, normalised weights: as they are in the forward, frozen in shares."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from variants import OTHERS, VARIANTS, build, pictures, randomise

import vitlens
from vitlens import HookedViT, InputError
from vitlens.model.capabilities import APPROXIMATE, EXACT, IMPOSSIBLE
from vitlens.model.class_space.classifier import kind_of
from vitlens.registers.extra_registers import add_registers


class Cosine(nn.Module):
    """As ArcFace's: the cosine to each class, times a scale."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(10, 32))

    def forward(self, x):
        return 20.0 * F.normalize(x, dim=-1) @ F.normalize(self.weight, dim=-1).T


class WrittenOut(nn.Module):
    """CLIP's: a projection, divided by a length that no function of torch names, compared with texts."""

    def __init__(self):
        super().__init__()
        self.projection, self.texts = nn.Linear(32, 12, bias=False), nn.Parameter(torch.empty(10, 12))

    def forward(self, x):
        features = self.projection(x)
        return 7.0 * (features * features.pow(2).sum(dim=-1, keepdim=True).rsqrt()) @ self.texts.T


def old_weight_norm():
    with pytest.warns(FutureWarning):
        return torch.nn.utils.weight_norm(nn.Linear(32, 10))


HEADS = {
    "batch_norm": lambda: nn.Sequential(nn.BatchNorm1d(32, affine=False), nn.Linear(32, 10)),
    "weight_norm": lambda: torch.nn.utils.parametrizations.weight_norm(nn.Linear(32, 10)),
    "old_weight_norm": old_weight_norm,
    "norm": lambda: nn.Sequential(nn.LayerNorm(32), nn.Dropout(0.1), nn.Linear(32, 10)),
    "cosine": Cosine,
    "written_out": WrittenOut,
    "pooler": lambda: nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10)),
}
KINDS = dict(zip(HEADS, ["linear"] * 3 + ["scaled"] * 3 + ["nonlinear"], strict=True))


def with_head(name, **keywords):
    module = build(**keywords)
    module.head = HEADS[name]()
    return randomise(module).eval()


@pytest.fixture(scope="module", params=HEADS)
def ported(request):
    module = with_head(request.param)
    model = HookedViT.from_timm(module)
    logits, cache = model.run_with_cache(pictures(model.cfg, 2))
    return request.param, module, model, logits, cache["resid_post", -1]


def equal(found, expected, rtol=1e-9):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-12)


def test_the_forward_the_lens_and_the_shares_go_through_the_whole_classifier(ported):
    name, module, model, logits, last = ported
    assert kind_of(model.unembed) == KINDS[name]
    equal(logits, module(pictures(model.cfg, 2)))
    equal(model.read_out(last), logits)
    equal(
        model.project(last[:, :3], range(3)), module.head(module.norm(last[:, :3].flatten(0, 1))).unflatten(0, (2, 3))
    )
    equal(sum(readout(last) for readout in model.linear_readouts(last)), logits)
    shares = vitlens.direct_logit_attribution(model, pictures(model.cfg, 2), [3, 1], baseline_classes=[2], unit="head")
    assert shares.residual.abs().max() <= 1e-12
    assert ("classifier rest" in shares.axes["component"]) == (KINDS[name] == "nonlinear")


def test_one_matrix_is_shown_where_there_is_one(ported):
    name, module, model, logits, last = ported
    status = model.capabilities().set_index("analysis")["status"]
    assert status["class_lens"] == EXACT
    assert status["direct_logit_attribution by head"] == (APPROXIMATE if KINDS[name] == "nonlinear" else EXACT)
    assert status["model.W_U, vitlens.memories"] == (EXACT if KINDS[name] == "linear" else IMPOSSIBLE)
    if KINDS[name] == "linear":
        equal(module.norm(last[:, 0]) @ model.W_U + model.b_U, logits)
        return
    _, cache = model.run_with_cache(pictures(model.cfg, 1))
    for call in (
        lambda: model.W_U,
        lambda: model.b_U,
        lambda: model.tokens_to_residual_directions(1),
        lambda: vitlens.memories.read_memories(model, -1),
    ):
        with pytest.raises(InputError, match=r"this classifier is no single matrix \("):
            call()
    with pytest.raises(InputError, match="its classifier has layers or norms of its own"):
        cache.logit_attrs(cache.decompose_resid(), 1)
    with pytest.raises(InputError, match="its classifier has layers of its own"):
        HookedViT.from_timm(module, fold_ln=True)
    assert "unembed.W_U" not in model.tl_parameters()


def frozen(module, name, x):
    """The gradient of logit 3 with what divides in norms held, and what that leaves of the logit: by the equations."""
    head = module.head
    if name == "cosine":
        rows = 20.0 * F.normalize(head.weight, dim=-1)[3] / x.norm(dim=-1, keepdim=True)
    elif name == "written_out":
        rows = 7.0 * (head.texts @ head.projection.weight)[3] / head.projection(x).norm(dim=-1, keepdim=True)
    elif name == "norm":
        of_norm = head[2].weight[3] * head[0].weight
        rows = (of_norm - of_norm.mean()) / (x.var(dim=-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    elif name == "pooler":
        slope = 1 - head[0](x).tanh().square()
        rows = slope * head[2].weight[3] @ head[0].weight
    return rows, head(x)[:, 3] - (rows * x).sum(dim=-1)


@pytest.mark.parametrize("ported", ["norm", "cosine", "written_out", "pooler"], indirect=True)
def test_shares_are_those_of_the_frozen_classifier(ported):
    name, module, model, _, last = ported
    images = pictures(model.cfg, 2)
    _, cache = model.run_with_cache(images)
    x = module.norm(last[:, 0]).detach()
    rows, rest = frozen(module, name, x)
    directions = rows * module.norm.weight
    directions = directions - directions.mean(dim=-1, keepdim=True)
    scale = (last[:, 0].var(dim=-1, unbiased=False) + module.norm.eps).sqrt()
    shares = vitlens.direct_logit_attribution(model, images, 3)
    compared, other = (
        vitlens.direct_logit_attribution(model, images, wanted, baseline_classes=base)
        for wanted, base in ((3, 1), (1, None))
    )
    equal(compared.values, shares.values - other.values)
    found = dict(zip(map(str, shares.axes["component"]), shares.values[:, 0].unbind(dim=-1), strict=True))
    equal(found["L1 mlp"], (directions * cache["mlp_out", 1][:, 0]).sum(dim=-1) / scale)
    constant = (rows * module.norm.bias).sum(dim=-1)
    if name == "pooler":
        equal(found["classifier rest"], rest)
        equal(found["constant"], constant)
    else:
        equal(found["constant"], constant + rest)


@pytest.mark.parametrize(
    "keywords",
    [{"global_pool": "max", "fc_norm": False}, {"global_pool": "map", "class_token": False}, {"fc_norm": True}],
    ids=["maximum", "attention_pool", "norm_after_pool"],
)
def test_behind_every_pooling(keywords):
    model = HookedViT.from_timm(with_head("pooler", **keywords))
    images = pictures(model.cfg, 2)
    for unit in ("component", "head_patch"):
        assert vitlens.direct_logit_attribution(model, images, [3, 1], unit=unit).residual.abs().max() <= 1e-12
    logits, cache = model.run_with_cache(images, names_filter="resid_post")
    equal(model.linear_readouts(cache["resid_post", -1])[0](cache["resid_post", -1]), logits)


def test_two_classifiers_of_several_layers_share_the_rest():
    module = build("deit_tiny_distilled_patch16_224")
    module.head, module.head_dist = HEADS["pooler"](), HEADS["pooler"]()
    model = HookedViT.from_timm(randomise(module).eval())
    images = pictures(model.cfg, 2)
    equal(model(images), module(images))
    shares = vitlens.direct_logit_attribution(model, images, [3, 1])
    assert shares.residual.abs().max() <= 1e-12
    normed = module.norm(model(images, stop_at_layer=3))
    rests = [
        frozen(type("Half", (), {"head": head}), "pooler", normed[:, token])[1]
        for token, head in ((0, module.head), (1, module.head_dist))
    ]
    place = list(map(str, shares.axes["component"])).index("classifier rest")
    equal(shares.values[:, 0, place], sum(rests) / 2)


def test_class_embeddings_stand_behind_the_whole_classifier():
    module = OTHERS["layered_classifier"]()
    model = HookedViT.from_timm(module)
    images, texts = pictures(model.cfg, 2), torch.randn(4, 10, dtype=torch.float64)
    view = model.with_class_embeddings(texts, scale=5.0, normalise=True, space="output")
    expected = 5.0 * F.normalize(module(images), dim=-1) @ F.normalize(texts, dim=-1).T
    equal(view(images), expected)
    assert vitlens.direct_logit_attribution(view, images, [3, 1]).residual.abs().max() <= 1e-12
    assert not [name for name in view.hook_dict if name.startswith("unembed")]
    for other in (model, copy.deepcopy(model), add_registers(model, {1: [3]}, 1)):
        _, cache = other.run_with_cache(images, names_filter="unembed.hook_layer1")
        assert [*cache] == ["unembed.hook_layer1"], "the view has not renamed them, and copies have their own"
    with pytest.raises(InputError, match="no single matrix"):
        _ = view.W_U


def test_an_edited_layer_of_the_classifier_is_no_component():
    model = HookedViT.from_timm(OTHERS["layered_classifier"]())
    with (
        model.hooks(fwd_hooks=[("unembed.hook_layer0", lambda x, hook: x * 0.5)]),
        pytest.raises(InputError, match=r"the hook at unembed\.hook_layer0 changes what no component wrote"),
    ):
        vitlens.direct_logit_attribution(model, pictures(model.cfg, 1))


def test_the_kind_follows_the_weights():
    module = with_head("pooler")
    nn.init.zeros_(module.head[2].weight)
    model = HookedViT.from_timm(module)
    nn.init.zeros_(module.head[2].bias)
    with pytest.raises(InputError, match=r"all 10 classes of .* have the same embedding"):
        model.require_rank("a rank")
    assert kind_of(model.unembed) == "nonlinear"
    with torch.no_grad():
        module.head[0].weight.mul_(1e-12)
        module.head[2].weight.normal_()
    assert kind_of(model.unembed) == "linear", "a tanh of nearly 0 is linear"


class Labelled(Cosine):
    def forward(self, x, labels):
        return super().forward(x)


class Batched(Cosine):
    def forward(self, x):
        return super().forward(x - x.mean(dim=0))


class Detached(Cosine):
    def forward(self, x):
        return super().forward(x.detach()).detach()


class Pairs(Cosine):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        (nn.Sequential(nn.Linear(31, 6), nn.ReLU()), r"head \(Linear, ReLU\) cannot read vectors \[pictures, 32\]"),
        (Labelled(), r"head \(Labelled\) cannot read vectors .*labels"),
        (Batched(), r"head \(Batched\) returns other logits for a picture with other pictures beside it"),
        (Detached(), r"head \(Detached\) has no gradient"),
        (Pairs(), r"head \(Pairs\) returns no table of logits"),
    ],
    ids=["width", "labels", "batch", "gradient", "pairs"],
)
def test_what_is_no_function_of_one_picture_is_refused(head, sentence):
    module = VARIANTS["class_token"]()
    module.head = randomise(head)
    with pytest.raises(InputError, match=sentence):
        HookedViT.from_timm(module.eval())
