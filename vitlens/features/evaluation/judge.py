"""All measures of one dictionary that are taken from its rows and features."""

from vitlens.features.evaluation.entrants import CodedPictures, Entrant
from vitlens.features.evaluation.estimates import Estimate
from vitlens.features.evaluation.image_codes import CodeSample
from vitlens.features.evaluation.locality import Locality
from vitlens.features.evaluation.metrics import WantedMeasures
from vitlens.features.evaluation.monosemanticity import Monosemanticity
from vitlens.features.evaluation.reconstruction import Reconstruction, TargetMeans


class Judge:
    """Sums over the pictures so far; those of measures that are not wanted are None."""

    def __init__(self, entrant: Entrant, means: TargetMeans, wanted: WantedMeasures) -> None:
        self.reconstruction = Reconstruction(means)
        self.locality = Locality(entrant.model.cfg.n_prefix_tokens) if "locality" in wanted else None
        self.monosemanticity = Monosemanticity() if "monosemanticity" in wanted else None
        self.sample = CodeSample() if wanted.names & {"probing", "absorption"} else None

    def add(self, coded: CodedPictures) -> None:
        for part in (self.reconstruction, self.locality, self.monosemanticity, self.sample):
            if part is not None:
                part.add(coded)

    def estimates(self) -> dict[str, Estimate]:
        parts = (self.reconstruction, self.locality, self.monosemanticity)
        return {name: value for part in parts if part is not None for name, value in part.estimates().items()}
