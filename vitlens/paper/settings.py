"""The settings of a study: for each its default, its help on the command line, and its allowed values.

Nothing here imports torch, for the command line makes its options of these fields.
"""

from dataclasses import dataclass

from vitlens.errors import InputError
from vitlens.settings import check_settings, setting


@dataclass(frozen=True)
class StudySettings:
    """Everything that changes a number. What does not (device, threads, processes) is left out on purpose."""

    model: str = setting("demo", 'a timm name, or "demo"')
    checkpoint: str | None = setting(None, "your own weights: a file or a folder")
    timm: list[str] | None = setting(None, "keywords of timm's model, each KEY=VALUE")
    mean: str | None = setting(None, "mean of the colours that the model was trained with")
    std: str | None = setting(None, "their standard deviation")
    crop_pct: float | None = setting(None, "the part of the resized picture that the crop keeps")
    interpolation: str | None = setting(None, "how pictures are resized")
    random_weights: bool = setting(False, "do not load any weights")
    dtype: str = setting("float32", "float32, float64, bfloat16 or float16")
    data: str = setting("demo", 'a folder of pictures, a Parquet file, a name on the hub, ImageNet-S, or "demo"')
    split: str | None = setting(None, "which split of the data")
    streaming: bool = setting(False, "read pictures as they come")
    n_images: int | None = setting(None, "only this many pictures, the first ones", least=1)
    per_class: int | None = setting(None, "only this many pictures of each class, the first ones", least=1)
    drop_incomplete: bool = setting(False, "leave out classes with fewer pictures than per_class asks for")
    masks: str | None = setting(None, "folder of object masks, named as the pictures")
    object_id: int | None = setting(None, "of masks of class ids, the object's")
    class_map: str | None = setting(None, "JSON or CSV: label of the data → class of the model")
    class_names: str | None = setting(None, "file with the names of the model's classes, one per line")
    image_column: str | None = setting(None, "the table's column of pictures")
    label_column: str | None = setting(None, "the table's column of labels")
    mask_reduction: str = setting("area", "how a mask of pixels becomes one of patches", choices=("area", "nearest"))
    squash: bool = setting(False, "scale pictures without cropping, as the released code does")
    batch_size: int = setting(16, "pictures per chunk", least=1)
    seed: int = setting(0, "of everything that is drawn", least=0)
    paper_compat: bool = setting(False, "compute as the paper's released code does, quirks and all")
    n_random_models: int = setting(2, "re-initialised models to compare with", least=0)
    n_bootstrap: int = setting(1000, "bootstrap draws for each interval", least=10)
    n_permutations: int = setting(300, "shuffles for each permutation test", least=10)
    heatmap_classes: str = setting("label", "which class heatmaps explain", choices=("label", "predicted"))
    n_steps: int | None = setting(None, "steps of the removal of patches; by default each patch is one", least=1)
    n_random_orders: int = setting(3, "random orders to compare the removal of patches with", least=1)
    train_data: str | None = setting(None, "pictures that probes are trained on")
    train_split: str | None = setting(None, "which split of them")
    train_per_class: int = setting(10, "training pictures per class", least=1)
    n_probe_tokens: int | None = setting(None, "how many tokens have a probe; by default all", least=1)

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        check_settings(self)
        if self.seed >= 2**63:
            raise InputError(f"seed is a whole number from 0 to 2^63 − 1, not {self.seed}")
