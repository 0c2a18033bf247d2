"""The edges into a batch of targets from everything that writes, by one pass back through the frozen run."""

from dataclasses import dataclass
from functools import cached_property

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.circuits.graphs.frozen_run import FrozenRun, Pulled, Reads
from vitlens.circuits.graphs.replacement import MLPReplacement
from vitlens.results.axes import NodeLabel, TokenLabel

#: Where more than this share of all units is active, their directions are not picked one by one.
DENSE_SHARE = 0.25
#: Targets of one pass back, and the numbers that their edges may take.
TARGETS_AT_ONCE, EDGES_AT_ONCE = 32, 2**26


@dataclass(frozen=True)
class ActiveUnits:
    """The units of one block that are not 0, sorted by token; `first` is the first one's place among all sources."""

    replacement: MLPReplacement
    first: int
    tokens: Int[Tensor, "source"]
    units: Int[Tensor, "source"]
    values: Float[Tensor, "source"]

    @property
    def places(self) -> slice:
        return slice(self.first, self.first + len(self.tokens))

    def edges(
        self, directions: Float[Tensor, "unit d"], gradient: Float[Tensor, "row token d"]
    ) -> Float[Tensor, "row source"]:
        """value · scale · ⟨direction, gradient⟩ of every active unit, in one block that it writes in."""
        if self._is_dense:
            along = (gradient @ directions.T)[:, self.tokens, self.units]
        else:
            picked = directions[self._slots]
            along = einsum(gradient, picked, "r t d, t s d -> r t s")[:, self._filled]
        return along * (self.values * self.replacement.scale[self.tokens, 0])

    @cached_property
    def _counts(self) -> Int[Tensor, "token"]:
        return torch.bincount(self.tokens, minlength=len(self.replacement.values))

    @property
    def _is_dense(self) -> bool:
        return len(self.tokens) == 0 or int(self._counts.max()) > DENSE_SHARE * self.replacement.values.shape[1]

    @cached_property
    def _filled(self) -> Bool[Tensor, "token slot"]:
        """Which slots hold a unit: tokens have different numbers of active ones."""
        slots = torch.arange(int(self._counts.max()), device=self.tokens.device)
        return slots < self._counts[:, None]

    @cached_property
    def _slots(self) -> Int[Tensor, "token slot"]:
        slots = torch.zeros(self._filled.shape, dtype=torch.long, device=self.tokens.device)
        slots[self._filled] = self.units
        return slots


class Sources:
    """Everything that writes to the stream in a picture's frozen run, each with a place: active units, the errors of what
    replaces the MLPs, and what enters block 0, token by token."""

    def __init__(self, run: FrozenRun, replacements: list[MLPReplacement]) -> None:
        self.run, self.replacements = run, replacements
        self.units: list[ActiveUnits] = []
        first = 0
        for replacement in replacements:
            tokens, units = replacement.values.nonzero(as_tuple=True)
            self.units.append(ActiveUnits(replacement, first, tokens, units, replacement.values[tokens, units]))
            first += len(tokens)
        self.n_units = first
        self.errors: dict[int, int] = {}
        for replacement in replacements:
            if replacement.error is not None:
                self.errors[replacement.block] = first
                first += run.n_tokens
        self.embeddings: dict[str, int] = {}
        for name in run.embeddings():
            self.embeddings[name] = first
            first += run.n_tokens
        self.n = first
        #: The block of each unit.
        none = torch.empty(0, dtype=torch.long)
        self.blocks = torch.cat([none, *(torch.full((len(of.tokens),), of.replacement.block) for of in self.units)])
        self._attn_constants = [run.attn_constant(block) for block in range(len(run.blocks))]

    def at(self, place: int) -> tuple[ActiveUnits, int, int]:
        """The units of its block, a unit's number and its token."""
        of = next(of for of in reversed(self.units) if of.first <= place and len(of.tokens))
        return of, int(of.units[place - of.first]), int(of.tokens[place - of.first])

    def labels_besides(self, tokens: list[TokenLabel]) -> list[NodeLabel]:
        """The nodes of all sources that are no units, in their order."""
        errors = [
            NodeLabel(f"L{b} error at {token}", "error", b, t) for b in self.errors for t, token in enumerate(tokens)
        ]
        return errors + [
            NodeLabel(f"{name} at {token}", name, None, t) for name in self.embeddings for t, token in enumerate(tokens)
        ]

    def pre_activations(self, places: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
        """Those of units at these places."""
        found = []
        for place in places.tolist():
            of, unit, token = self.at(place)
            found.append(of.replacement.pre_activations[token, unit])
        return torch.stack(found)

    def activations(self, places: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
        """Those of units at these places."""
        return torch.cat([of.values for of in self.units])[places]

    def reads(self, places: Int[Tensor, "row"]) -> Reads:
        """What units at these places read; the rows are in this order, which is by block, the last first."""
        run = self.run
        tokens, directions = [], []
        for of in self.units:
            mine = places[(places >= of.first) & (places < of.places.stop)] - of.first
            if not len(mine):
                # A block whose MLP nothing replaces has no unit that reads.
                continue
            tokens.append(of.tokens[mine])
            directions.append(of.replacement.read_directions(of.units[mine], of.tokens[mine]))
        tokens, directions = tokens[::-1], directions[::-1]
        none = run.mlp_out(0).new_zeros(0, *run.mlp_out(0).shape)
        return Reads(self.blocks[places], torch.cat(tokens), torch.cat(directions), none)

    @property
    def targets_at_once(self) -> int:
        """How many targets one pass back takes: fewer where their edges would take much memory."""
        return max(1, min(TARGETS_AT_ONCE, EDGES_AT_ONCE // max(1, self.n)))

    def edges_into(self, targets: Reads) -> tuple[Float[Tensor, "row source"], Float[Tensor, "row"]]:
        """The edges from every source into each target, and what biases on the way add."""
        n_rows = len(targets.blocks)
        edges = targets.directions.new_zeros(n_rows, self.n)
        constant = targets.directions.new_zeros(n_rows)
        for pulled in self.run.pull(targets):
            if pulled.block < 0:
                self._add_embeddings(edges, pulled)
            else:
                self._add_block(edges, constant, pulled)
        return edges, constant

    def _add_embeddings(self, edges: Float[Tensor, "row source"], pulled: Pulled) -> None:
        for name, written in self.run.embeddings().items():
            first = self.embeddings[name]
            edges[:, first : first + len(written)] = einsum(pulled.written_by_mlp, written, "r t d, t d -> r t")

    def _add_block(self, edges: Float[Tensor, "row source"], constant: Float[Tensor, "row"], pulled: Pulled) -> None:
        gradient, block = pulled.written_by_mlp, pulled.block
        n_rows = len(gradient)
        if n_rows:
            for of in self.units:
                if block in of.replacement.writes:
                    edges[:n_rows, of.places] += of.edges(of.replacement.writes[block], gradient)
            for replacement in self.replacements:
                if replacement.block == block:
                    constant[:n_rows] += einsum(gradient, replacement.bias, "r t d, t d -> r")
                    if replacement.error is not None:
                        first = self.errors[block]
                        edges[:n_rows, first : first + self.run.n_tokens] = einsum(
                            gradient, replacement.error, "r t d, t d -> r t"
                        )
        of_attn = pulled.written_by_attn
        constant[: len(of_attn)] += einsum(of_attn, self._attn_constants[block], "r t d, t d -> r")


def unit_label(of: ActiveUnits, unit: int, token: int, tokens: list[TokenLabel]) -> NodeLabel:
    """The node of an active unit."""
    kind, block = of.replacement.kind, of.replacement.block
    return NodeLabel(f"L{block} {kind} {unit} at {tokens[token]}", kind, block, token, unit)
