"""The configuration of a model: TransformerLens' fields, and those that only a vision transformer has."""

from dataclasses import dataclass, field

from transformer_lens.config import TransformerLensConfig

from vitlens.results.axes import TokenLabel, patch_label


@dataclass
class HookedViTConfig(TransformerLensConfig):
    """The architecture of a HookedViT, read off a timm module by `vitlens.model.porting`.

    `n_ctx` counts prefix tokens and patches at the model's own image size; with `dynamic_img_size` other sizes are
    possible, so code that needs the number of tokens of a run reads it off an activation.
    `d_vocab` (TransformerLens' name) is the number of classes, 0 for a model without a classifier. `output` is what the
    outputs mean: "softmax", "sigmoid", "identity" or "embedding", see `HookedViT.set_output`.
    """

    model_name: str = "vit"
    model_class: str = "VisionTransformer"
    wiring: str = "pre-norm"
    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    grid_size: tuple[int, int] = (14, 14)
    n_channels: int = 3
    dynamic_img_size: bool = False
    prefix_tokens: tuple[str, ...] = ("class",)
    pool: str = "token"
    read_tokens: tuple[int, int | None] = (0, 1)
    layer_scale: bool = False
    qk_norm: bool = False
    processed: tuple[str, ...] = ()
    output: str = "softmax"
    data_config: dict = field(default_factory=dict)

    @property
    def n_classes(self) -> int:
        return self.d_vocab

    @property
    def n_prefix_tokens(self) -> int:
        """The number of tokens before the patches: class, distillation and register tokens."""
        return len(self.prefix_tokens)

    @property
    def has_class_token(self) -> bool:
        return "class" in self.prefix_tokens

    def token_label(self, token: int, grid: tuple[int, int] | None = None) -> TokenLabel:
        """ "class", "register 2", or "(row, column)" of a patch, counted from the upper left."""
        if token < self.n_prefix_tokens:
            return TokenLabel(self.prefix_tokens[token], "prefix")
        row, column = divmod(token - self.n_prefix_tokens, (grid or self.grid_size)[1])
        return patch_label(row, column)

    def token_labels(self, grid: tuple[int, int] | None = None) -> list[TokenLabel]:
        """Of every token, on the model's own grid or another."""
        rows, columns = grid or self.grid_size
        return [self.token_label(token, grid) for token in range(self.n_prefix_tokens + rows * columns)]
