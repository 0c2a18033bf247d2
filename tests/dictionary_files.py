"""Files of dictionaries by each library's documented layout, with what the library computes, written from its equations."""

import io
import json

import torch
import yaml
from safetensors.torch import save_file

D, F, K = 8, 24, 4
GENERATOR = torch.Generator()


def draw(*shape, scale=0.5):
    return scale * torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


GENERATOR.manual_seed(5)
X = draw(30, D, scale=2.0) + 0.5
W_ENC, B_ENC, W_DEC, B_DEC = draw(D, F), draw(F), draw(F, D), draw(D)
ATOMS, LOG = W_DEC / W_DEC.norm(dim=-1, keepdim=True), torch.tensor(0.3, dtype=torch.float64)
GATE, MAG, R, B_OUT, SKIP, JUMPS = draw(F), draw(F), draw(F), draw(D), draw(D, D), draw(F).abs()


# ---- what the libraries compute, written from their equations ------------------------------------------------------


def top(h, k):
    """The k largest of each row, the others 0."""
    return torch.stack([torch.where(row >= row.sort(descending=True).values[k - 1], row, 0) for row in h])


def relu(h):
    return torch.where(h > 0, h, 0)


def pre(x, b_in=B_DEC, b_enc=B_ENC):
    return torch.einsum("nd,df->nf", x - b_in, W_ENC) + b_enc


def write(f, bias=B_DEC):
    return torch.einsum("nf,fd->nd", f, W_DEC) + bias


def layer_normed(x):
    mean = x.sum(-1, keepdim=True) / D
    deviation = ((x - mean).square().sum(-1, keepdim=True) / (D - 1)).sqrt()
    return (x - mean) / (deviation + 1e-5), deviation, mean


def gated(x):
    return relu((x - B_DEC) @ W_ENC * R.exp() + MAG) * ((x - B_DEC) @ W_ENC + GATE > 0)


def tied(x):
    return relu(LOG.exp() * x @ ATOMS.T)


def grouped(h, k):
    """The largest of each of k groups, the others 0."""
    groups = h.reshape(len(h), k, -1)
    return torch.where(groups == groups.amax(-1, keepdim=True), groups, 0).reshape(h.shape)


# ---- files, written by each library's documented layout ------------------------------------------------------------


def saev(folder, state, settings):
    tensors = io.BytesIO()
    torch.save(state, tensors)
    (folder / "sae.pt").write_bytes(json.dumps(settings).encode() + b"\n" + tensors.getvalue())


def with_config(name, weights):
    def write_files(folder, state, settings):
        (folder / name).write_text(json.dumps(settings) if name.endswith("json") else yaml.safe_dump(settings))
        save_file(state, folder / weights) if weights.endswith("safetensors") else torch.save(state, folder / weights)

    return write_files


ARRAYS = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
LINEAR = {"encoder.weight": W_ENC.T, "decoder.weight": W_DEC.T}
THRESHOLD = torch.tensor(0.6, dtype=torch.float64)
WHOLE = {"k": torch.tensor(K, dtype=torch.int32), "threshold": THRESHOLD}


def schema(number, cls, **params):
    return {"schema": number, "cfg": {"d_model": D, "d_sae": F, "activation": {"cls": cls, "params": params}}}


def trainer(kind, **more):
    about = {"dict_class": kind, "activation_dim": D, "dict_size": F, "submodule_name": "resid_post_layer_1"}
    return {"trainer": about | more}


def prisma(**more):
    return {
        "architecture": "standard", "is_transcoder": False, "d_in": D, "d_out": D, "expansion_factor": F // D,
        "activation_fn_str": "relu", "activation_fn_kwargs": {}, "normalize_activations": "none",
        "hook_point_layer": 1, "layer_subtype": "hook_resid_mid", "hook_point_head_index": None, **more,
    }  # fmt: skip


def prisma_transcoder(**more):
    out = {"out_hook_point_layer": 1, "layer_out_subtype": "hook_mlp_out"}
    return prisma(is_transcoder=True, transcoder_with_skip_connection=True, **out, **more)


def bench(kind, **more):
    return {"architecture": kind, "d_model": D, "dict_size": F, "expansion_factor": F // D, "layer": 1, **more}


def saelens(kind, **more):
    about = {"architecture": kind, "d_in": D, "d_sae": F, "dtype": "float64", "normalize_activations": "none"}
    return {**about, "metadata": {"hook_name": "blocks.1.hook_resid_mid"}, **more}


def transcoder_set(**more):
    sites = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    return {"model_kind": "transcoder_set", **sites, **more}


def sparsify(**more):
    settings = {"activation": "topk", "expansion_factor": F // D, "num_latents": 0, "k": K, "d_in": D}
    return {**settings, "transcode": False, "skip_connection": False, **more}


SPARSE = {"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
BENCH = {"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "decoder.weight": W_DEC, "decoder.bias": B_DEC}
SAELENS = with_config("cfg.json", "sae_weights.safetensors")
PRISMA = with_config("config.json", "weights.pt")
AE = with_config("config.json", "ae.pt")
EAI = with_config("cfg.json", "sae.safetensors")
LN = layer_normed(X)
ROOT = X.square().sum(-1, keepdim=True).div(D).sqrt()
LENGTHS = W_DEC.norm(dim=-1)
#: By name: how the files are written, tensors, settings; then the features of X and what is written from features f.
CASES = {
    "saelens gated": (
        SAELENS, {"W_enc": W_ENC, "W_dec": W_DEC, "b_dec": B_DEC, "b_gate": GATE, "b_mag": MAG, "r_mag": R},
        saelens("gated", apply_b_dec_to_input=True), gated(X), write,
    ),
    "saelens skip transcoder": (
        SAELENS, {**ARRAYS, "W_skip": SKIP, "threshold": JUMPS},
        saelens("jumprelu_skip_transcoder", apply_b_dec_to_input=False, d_out=D),
        pre(X, 0) * (pre(X, 0) > JUMPS), lambda f: write(f) + X @ SKIP.T,
    ),
    "overcomplete jumprelu": (
        lambda folder, state, settings: torch.save(state, folder / "sae.pt"),
        {
            "dictionary._weights": ATOMS, "dictionary.multiplier": LOG, "thresholds": GATE,
            "encoder.tied_to._weights": ATOMS, "encoder.tied_to.multiplier": LOG,
        },
        {}, tied(X) * (tied(X) >= GATE.exp()), lambda f: LOG.exp() * f @ ATOMS,
    ),
    "saev before schemas": (saev, ARRAYS, {"d_vit": D, "exp_factor": F // D, "seed": 0}, relu(pre(X)), write),
    "saev 3 topk": (saev, ARRAYS, schema(3, "TopK", top_k=20), top(pre(X, 0), 20), write),
    "saev 5 relu": (saev, ARRAYS, schema(5, "Relu"), relu(pre(X, 0)), write),
    "saev 5 batchtopk": (
        saev, {**ARRAYS, "activation.threshold": THRESHOLD}, schema(5, "BatchTopK", top_k=K),
        pre(X, 0) * (pre(X, 0) > 0.6), write,
    ),
    "prisma standard": (PRISMA, ARRAYS, prisma(), relu(pre(X)), write),
    "prisma layer_norm topk": (
        PRISMA, ARRAYS, prisma(normalize_activations="layer_norm", activation_fn_str="topk", activation_fn_kwargs={"k": K}),
        relu(top(pre(LN[0]), K)), lambda f: write(f) * LN[1] + LN[2],
    ),
    "prisma gated": (
        PRISMA, {**ARRAYS, "b_gate": GATE, "b_mag": MAG, "r_mag": R},
        prisma(architecture="gated", normalize_activations="constant_norm_rescale"),
        gated(X / ROOT), lambda f: write(f) * ROOT,
    ),
    "prisma transcoder": (
        PRISMA, {**ARRAYS, "b_dec_out": B_OUT, "W_skip": SKIP}, prisma_transcoder(normalize_activations="layer_norm"),
        relu(pre(LN[0])), lambda f: (write(f, B_OUT) + X @ SKIP.T) * LN[1] + LN[2],
    ),
    "dictionary_learning standard": (
        AE, {**LINEAR, "encoder.bias": B_ENC, "bias": B_DEC}, trainer("AutoEncoder"),
        relu(pre(X)) * LENGTHS, lambda f: write(f / LENGTHS),
    ),
    "dictionary_learning new": (
        AE, {**LINEAR, "encoder.bias": B_ENC, "decoder.bias": B_DEC}, trainer("AutoEncoderNew"), relu(pre(X, 0)), write,
    ),
    "dictionary_learning gated": (
        AE, {**LINEAR, "decoder_bias": B_DEC, "r_mag": R, "gate_bias": GATE, "mag_bias": MAG},
        trainer("GatedAutoEncoder"), gated(X), write,
    ),
    "dictionary_learning jumprelu": (
        AE, {**ARRAYS, "threshold": JUMPS}, trainer("JumpReluAutoEncoder"), pre(X, 0) * (pre(X, 0) > JUMPS), write,
    ),
    "dictionary_learning topk": (
        AE, {**LINEAR, "encoder.bias": B_ENC, "b_dec": B_DEC, **WHOLE}, trainer("AutoEncoderTopK", k=K),
        relu(top(pre(X), K)), write,
    ),
    "dictionary_learning batchtopk": (
        AE, {**LINEAR, "encoder.bias": B_ENC, "b_dec": B_DEC, **WHOLE}, trainer("BatchTopKSAE", k=K),
        pre(X) * (pre(X) > 0.6), write,
    ),
    "sae-for-vlm matryoshka": (
        AE, {**ARRAYS, **WHOLE, "group_sizes": torch.tensor([8, F - 8])}, trainer("MatroyshkaBatchTopKSAE", k=K),
        pre(X) * (pre(X) > 0.6), write,
    ),
    "visaebench topk": (
        with_config("config.yaml", "sae.pt"), BENCH, bench("topk", k=K), relu(top(pre(X, 0), K)), write,
    ),
    "visaebench batchtopk": (
        with_config("config.json", "model.safetensors"), BENCH, bench("batchtopk", threshold=0.5),
        pre(X, 0) * (pre(X, 0) >= 0.5), write,
    ),
    "visaebench jumprelu": (
        with_config("config.yaml", "sae.pt"), {**BENCH, "jump_thresholds": JUMPS}, bench("jumprelu"),
        pre(X, 0) * (pre(X, 0) > JUMPS), write,
    ),
    "circuit-tracer jumprelu": (
        with_config("config.yaml", "layer_1.safetensors"),
        {**ARRAYS, "W_enc": W_ENC.T, "W_skip": SKIP, "activation_function.threshold": JUMPS}, transcoder_set(),
        pre(X, 0) * (pre(X, 0) > JUMPS), lambda f: write(f) + X @ SKIP.T,
    ),
    "circuit-tracer topk": (
        with_config("config.yaml", "layer_1.safetensors"), {**ARRAYS, "W_enc": W_ENC.T},
        transcoder_set(activation="topk", k=20), top(pre(X, 0), 20), write,
    ),
    "sparsify": (EAI, SPARSE, sparsify(), relu(top(pre(X), K)), write),
    "sparsify groupmax": (EAI, SPARSE, sparsify(activation="groupmax"), relu(grouped(pre(X), K)), write),
    "sparsify skip transcoder": (
        EAI, {**SPARSE, "W_skip": SKIP}, sparsify(transcode=True, skip_connection=True),
        relu(top(pre(X, 0), K)), lambda f: write(f) + X @ SKIP.T,
    ),
}  # fmt: skip
#: What a file may lack: the rest says the same, or an older version of the library had no such tensor or setting.
MAY_LACK = {
    "saelens": {"d_in", "d_sae", "d_out", "dtype", "metadata", "hook_name"},
    "dictionary_learning": {"k", "dict_class", "activation_dim", "dict_size", "submodule_name", "trainer"},
    "dictionary_learning topk": {"threshold"},
    "visaebench": {"decoder.bias", "d_model", "dict_size", "expansion_factor", "layer"},
    # Without these tensors the file is that of another dictionary, with ReLU or without a skip connection.
    "circuit-tracer": {"activation_function.threshold", "W_skip"},
    "sparsify": {"num_latents", "skip_connection"},
    "saev": {"seed"},
    "prisma": {"architecture", "is_transcoder", "activation_fn_kwargs", "hook_point_head_index", "d_out"},
}
#: Settings whose value is carried, and those that say nothing of what is computed.
CARRIED = {
    "k", "top_k", "threshold", "hook_name", "apply_b_dec_to_input", "hook_point_layer", "out_hook_point_layer", "layer",
    "seed", "submodule_name", "transcode",
}  # fmt: skip


def may_lack(case):
    return {name for library, names in MAY_LACK.items() if library in case.replace("sae-for-vlm", "dictionary_learning")
            for name in names}  # fmt: skip
