"""The frozen replacement model once more, as hooks on the model itself: what its edges are as finite differences."""

import torch
from torch import Tensor

from vitlens import HookedViT
from vitlens.features import CrossLayerTranscoder
from vitlens.features.dictionaries.dictionary import Transcoder

#: So small that no maximum of a pooling moves, and all else is linear.
STEP = 1e-5
FROZEN = ("hook_pattern", "hook_scale", "hook_gate", "pool.hook_mlp_out")


class ReplacedByHooks:
    """The model with patterns, scales and gates set to those of one picture's run, and the MLPs' outputs too.

    `readers` says which transcoder reads where, by block; None: the MLPs' own neurons are set.
    """

    def __init__(self, model: HookedViT, image: Tensor, readers: dict[int, tuple[str, Transcoder]] | None) -> None:
        self.model, self.image, self.readers = model, image, readers
        with torch.no_grad():
            self.logits, cache = model.run_with_cache(image)
        self.seen = {name: cache[name] for name in cache}

    def at(self, name: str) -> Tensor:
        return self.seen[name][0]

    def run(self, added: dict[str, Tensor]) -> dict[str, Tensor]:
        """Activations of a batch; `added` [edit, …] by hook name is what each of its edits adds there, times STEP."""
        n, kept = len(next(iter(added.values()))), {}

        def freeze(x, hook):
            return self.seen[hook.name].expand(n, *x.shape[1:]).clone()

        def add(x, hook):
            return x + STEP * added[hook.name] if hook.name in added else x

        def keep(x, hook):
            kept[hook.name] = x.clone()

        def write(x, hook):
            x = freeze(x, hook)
            block = int(hook.name.split(".")[1])
            if block in self.readers and self.readers[block][1].W_skip is not None:
                read, sae = self.readers[block]
                passed = (kept[read] - self.seen[read]) @ sae.W_skip.T
                x = x + passed * output_scale(sae, self.seen[read])
            return x

        names = list(self.model.hook_dict)
        hooks = [(name, freeze) for name in names if name.endswith(FROZEN)]
        if self.readers is None:
            hooks += [(name, keep) for name in names if name.endswith(("mlp.hook_pre", "mlp.hook_pre_linear"))]
            hooks += [(name, freeze) for name in names if name.startswith("blocks.") and name.endswith("mlp.hook_post")]
        else:
            hooks += [(read, keep) for read, _ in self.readers.values()]
            hooks += [(name, write) for name in names if name.startswith("blocks.") and name.endswith("hook_mlp_out")]
        hooks += [(name, add) for name in added]
        with torch.no_grad():
            kept["logits"] = self.model.run_with_hooks(self.image.expand(n, -1, -1, -1), fwd_hooks=hooks)
        return kept

    def effects(self, graph, added: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The targets of the graph unedited, and [target, edit] by how much each edit changes each of them."""
        clean = {name: torch.cat([torch.zeros_like(some[:1]), some]) for name, some in added.items()}
        read = self.read(graph, self.run(clean))
        return read[:, 0], (read[:, 1:] - read[:, :1]) / STEP

    def read(self, graph, kept: dict[str, Tensor]) -> Tensor:
        """[target, edit]: logits and pre-activations."""
        rows = [kept["logits"][:, index] for index in graph.classes[0]]
        for label in graph.targets[len(rows) :]:
            block, token, unit = label.block, label.token, label.feature
            if self.readers is None:
                pre, linear = (f"blocks.{block}.mlp.{name}" for name in ("hook_pre", "hook_pre_linear"))
                rows.append(kept[linear if linear in kept else pre][:, token, unit])
            else:
                name, sae = self.readers[block]
                rows.append(pre_activations(sae, kept[name], self.seen[name])[:, token, unit])
        return torch.stack(rows)


def statistics(sae: Transcoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """What divides the rows that a dictionary reads, and what multiplies its output if it is rescaled."""
    if sae.normalisation == "layer_norm":
        return x.std(dim=-1, keepdim=True) + 1e-5, x.std(dim=-1, keepdim=True)
    length = (x**2).mean(dim=-1, keepdim=True).sqrt() if sae.normalisation != "none" else torch.ones_like(x[..., :1])
    return length, length


def output_scale(sae: Transcoder, x: Tensor) -> Tensor:
    return statistics(sae, x)[1] if sae.rescaled else torch.ones_like(x[..., :1])


def pre_activations(sae: Transcoder, x: Tensor, clean: Tensor) -> Tensor:
    """What the activation function reads, the statistics those of a clean x."""
    centred = x - x.mean(dim=-1, keepdim=True) if sae.normalisation == "layer_norm" else x
    return centred / statistics(sae, clean)[0] @ sae.W_enc + sae.b_enc


def everything_added(graph, frozen: ReplacedByHooks, clt: CrossLayerTranscoder | None = None) -> dict[str, Tensor]:
    """[source, …] by hook name: what each source of the graph but the constant writes; the rest is the last one."""
    values, writes, errors = units(frozen, clt)
    sources = [label for label in graph.sources if label.kind not in ("constant", "rest")]
    added: dict[str, Tensor] = {}

    def add(name: str, index: int, token: int | slice, vector: Tensor) -> None:
        like = frozen.at(name)
        added.setdefault(name, like.new_zeros(len(sources) + 1, *like.shape))[index, token] += vector

    left = {block: value.clone() for block, value in values.items()}
    for index, label in enumerate(sources):
        if label.kind in ("feature", "neuron"):
            left[label.block][label.token, label.feature] = 0
            value = values[label.block][label.token, label.feature]
            for name, directions in writes[label.block].items():
                add(name, index, label.token, value * directions[label.feature])
        elif label.kind == "error":
            add(f"blocks.{label.block}.hook_mlp_out", index, label.token, errors[label.block][label.token])
        else:
            add(f"hook_{label.kind}", index, label.token, frozen.at(f"hook_{label.kind}")[label.token])
    for block, value in left.items():
        for name, directions in writes[block].items():
            add(name, len(sources), slice(None), value @ directions)
    return added


def units(
    frozen: ReplacedByHooks, clt: CrossLayerTranscoder | None
) -> tuple[dict[int, Tensor], dict[int, dict[str, Tensor]], dict[int, Tensor]]:
    """By block: what its units are worth [token, unit], what they write at which hook point [unit, …], and errors."""
    model, values, errors, writes = frozen.model, {}, {}, {}
    if frozen.readers is None:
        for block in range(model.cfg.n_layers):
            name = f"blocks.{block}.mlp.hook_post"
            values[block] = frozen.at(name)
            writes[block] = {name: torch.eye(values[block].shape[-1], dtype=torch.float64)}
        return values, writes, errors
    for block in range(model.cfg.n_layers):
        errors[block] = frozen.at(f"blocks.{block}.hook_mlp_out").clone()
    there = list(frozen.readers)
    features = [sae.encode(frozen.at(name)) for name, sae in frozen.readers.values()]
    reads = [frozen.at(name) for name, _ in frozen.readers.values()]
    for place, (block, (_, sae)) in enumerate(frozen.readers.items()):
        values[block] = features[place] * output_scale(sae, reads[place])
        ways = [sae.W_dec] if clt is None else clt.W_dec[place]
        writes[block] = {f"blocks.{there[place + i]}.hook_mlp_out": way for i, way in enumerate(ways)}
        errors[block] -= (
            sae.decode(features[place], reads[place]) if clt is None else clt.decode(features, reads)[place]
        )
    return values, writes, errors
