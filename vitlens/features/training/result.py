"""What a training gives: the dictionaries by hook point, and how their measures changed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import checked
from vitlens.errors import InputError
from vitlens.features.placed import AnyDictionary
from vitlens.files import make_folder
from vitlens.results.result import Result


@dataclass(frozen=True, repr=False)
class TrainingHistory(Result):
    """`values` [hook, row, measure]: the measures of a batch after that many rows; of a cross-layer transcoder those of each
    block, and the loss of all.

    "loss" is what the training lowers; "explained_variance" and "l0" (active features per row) are of the batch, with the
    features of the training; "dead_share" is the share of features without activity for a tenth of all rows, or for as
    many as the training was told.
    """

    values: Float[Tensor, "hook row measure"]


class TrainedDictionaries(Mapping[str, AnyDictionary]):
    """The trained dictionaries by the hook point that they read, and their `history`; `with_saes` takes it as it is.

    A cross-layer transcoder is called "cross_layer".
    """

    def __init__(self, saes: Mapping[str, AnyDictionary], history: TrainingHistory) -> None:
        self.saes = dict(saes)
        #: How the measures changed while they were trained.
        self.history = history

    @property
    def sae(self) -> AnyDictionary:
        """The dictionary, where it is the only one.

        Raises:
            InputError: there are several.
        """
        if len(self.saes) > 1:
            raise InputError(
                f"there are {len(self.saes)} dictionaries: name one by its hook point, {', '.join(self.saes)}"
            )
        return next(iter(self.saes.values()))

    @checked
    def save(self, path: str | Path) -> None:
        """Writes each dictionary to a folder of its own in the folder `path`, which is named as its hook point.

        Raises:
            InputError: a folder cannot be written.
        """
        folder = make_folder(path)
        for hook, sae in self.saes.items():
            sae.save(folder / hook)

    def __getitem__(self, hook: str) -> AnyDictionary:
        if hook not in self.saes:
            raise InputError(f"there is no dictionary of {hook!r}; there are {', '.join(self.saes)}")
        return self.saes[hook]

    def __iter__(self) -> Iterator[str]:
        return iter(self.saes)

    def __len__(self) -> int:
        return len(self.saes)

    def __repr__(self) -> str:
        return f"TrainedDictionaries({', '.join(f'{hook}: {sae.d_sae} features' for hook, sae in self.saes.items())})"
