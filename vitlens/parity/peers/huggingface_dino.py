"""Small models of Hugging Face's DINOv2, with and without registers, and DINOv3."""

from vitlens.parity.peers.huggingface_vit import logits, pooled, small
from vitlens.parity.peers.peer import Case, Peer

_DINOV2 = Peer("dinov2.encoder.layer", logits)
_WITH_REGISTERS = Peer("dinov2_with_registers.encoder.layer", logits)
_MODEL = Peer("encoder.layer", pooled)
_DINOV3 = Peer("model.layer", pooled)

DINO_CASES = [
    Case("Hugging Face DINOv2", "classifier of class token and mean", lambda: small("Dinov2"), _DINOV2),
    Case("Hugging Face DINOv2", "SwiGLU", lambda: small("Dinov2", "Model", use_swiglu_ffn=True), _MODEL),
    Case(
        "Hugging Face DINOv2",
        "positions interpolated for pictures of 48 × 64",
        lambda: small("Dinov2", "Model", image_size=64, hidden_act="gelu_new", layer_norm_eps=1e-3, qkv_bias=False),
        _MODEL,
        image_size=(48, 64),
        options={"img_size": (48, 64)},
    ),
    Case(
        "Hugging Face DINOv2",
        "pictures of 32 × 16, patches of 16 × 8",
        lambda: small("Dinov2", image_size=(32, 16), patch_size=(16, 8)),
        _DINOV2,
        image_size=(32, 16),
    ),
    Case("Hugging Face DINOv2 with registers", "classifier", lambda: small("Dinov2WithRegisters"), _WITH_REGISTERS),
    Case(
        "Hugging Face DINOv2 with registers",
        "two registers, positions interpolated for pictures of 48 × 32, SwiGLU",
        lambda: small("Dinov2WithRegisters", "Model", image_size=64, num_register_tokens=2, use_swiglu_ffn=True),
        _MODEL,
        image_size=(48, 32),
        options={"img_size": (48, 32)},
    ),
    Case(
        "Hugging Face DINOv3",
        "four registers",
        lambda: small("DINOv3ViT", "Model", image_size=48, num_register_tokens=4),
        _DINOV3,
        image_size=(48, 48),
    ),
    Case(
        "Hugging Face DINOv3",
        "gated MLP, no registers, bias of keys and no other, theta 50, pictures of 48 × 80",
        lambda: small(
            "DINOv3ViT",
            "Model",
            use_gated_mlp=True,
            hidden_act="silu",
            query_bias=False,
            key_bias=True,
            value_bias=False,
            proj_bias=False,
            mlp_bias=False,
            rope_theta=50.0,
        ),
        _DINOV3,
        image_size=(48, 80),
        options={"img_size": (48, 80)},
    ),
]
