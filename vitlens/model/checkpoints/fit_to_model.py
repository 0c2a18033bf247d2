"""Loads a state dict into a timm module, and reads from it how the module must be built."""

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from math import isqrt
from typing import Any

from timm.models.eva import Eva
from torch import Tensor

from vitlens.errors import InputError
from vitlens.model.checkpoints.files import State, first_keys
from vitlens.model.weights.checks import check_plain, check_weights

STEM = "patch_embed.proj.weight"
#: A tensor that only the module with this keyword has; the value is any that makes timm build it.
TOLD_BY_PRESENCE: dict[str, dict[str, Any]] = {
    "blocks.0.ls1.gamma": {"init_values": 1e-5},
    "blocks.0.gamma_1": {"init_values": 1e-5},
    "blocks.0.attn.q_norm.weight": {"qk_norm": True},
    "norm_pre.weight": {"pre_norm": True},
    "cls_token": {"class_token": True},
    "attn_pool.latent": {"global_pool": "map"},
}


class DoesNotFitError(InputError):
    """Tensors that are missing, of other shapes, or that the module does not have."""


def first_keywords(state: State) -> dict[str, Any]:
    """The numbers of classes and channels, as the shapes show them for every architecture."""
    found: dict[str, Any] = {}
    if "head.weight" in state:
        # A fine-tuned model has its own number of classes; the checkpoint knows it.
        found["num_classes"] = len(state["head.weight"])
    elif STEM in state and not any(key.startswith("head") for key in state):
        found["num_classes"] = 0
    stem = state.get(STEM)
    if stem is not None and stem.ndim == 4 and not any(key.startswith("patch_embed.backbone") for key in state):
        found |= {"in_chans": stem.shape[1]} if stem.shape[1] != 3 else {}
    return found


def other_keywords(state: State, module: Any, path: Any) -> dict[str, Any]:
    """Other keywords that the tensors determine, if the module was built differently.

    Raises:
        InputError: positions of a picture size that they do not tell.
    """
    expected = module.state_dict()
    found: dict[str, Any] = {}
    for key, keywords in TOLD_BY_PRESENCE.items():
        if key in state and key not in expected:
            found |= keywords
    n_registers = _tokens(state, "reg_token")
    if n_registers and n_registers != _tokens(expected, "reg_token"):
        found["num_reg_tokens" if isinstance(module, Eva) else "reg_tokens"] = n_registers
    qkv = "blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias"
    if qkv[0] in state and qkv[0] in expected and (qkv[1] in state) != (qkv[1] in expected):
        found["qkv_bias"] = qkv[1] in state
    if "cls_token" in expected and "cls_token" not in state and STEM in state and module.global_pool != "token":
        found["class_token"] = False
    if "mask_token" not in state:
        found |= _positions(state, expected, module, path)
    return found


def _positions(state: State, expected: State, module: Any, path: Any) -> dict[str, Any]:
    """The picture size of the positions, if it differs from the module's."""
    stem: Any = getattr(module, "patch_embed", None)
    name = next((key for key in expected if key == "pos_embed" or key.endswith("relative_position_bias_table")), None)
    if getattr(stem, "grid_size", None) is None or name is None or name not in state or state[name].ndim < 2:
        return {}
    rows, columns = stem.grid_size
    if name == "pos_embed":
        n_prefix = sum(_tokens(state, token) for token in ("cls_token", "dist_token", "reg_token"))
        without = getattr(module, "no_embed_class", False)
        # Are there rows for the prefix tokens? As in the module, or else so that the patches make a square.
        sides = {alone: _side(state[name].shape[1] - (0 if alone else n_prefix)) for alone in (without, not without)}
        if state[name].shape[1] - (0 if without else n_prefix) == rows * columns:
            return {}
        alone, side = next(((alone, side) for alone, side in sides.items() if side), (without, None))
        found = {} if alone == without else {"no_embed_class": alone}
    else:
        # One row for each pair of distances, and some for the class token.
        others = len(expected[name]) - (2 * rows - 1) * (2 * columns - 1)
        span, found = _side(len(state[name]) - others), {}
        if len(state[name]) == len(expected[name]):
            return {}
        side = (span + 1) // 2 if span and span % 2 else None
    if side is None:
        raise InputError(
            f"{path} has {state[name].shape[-2]} positions ({name}), which are those of no square of patches, and a "
            f"grid of {rows} × {columns} is expected: pass img_size=(height, width), the size that it was trained at"
        )
    patch = stem.feat_ratio(as_scalar=False)
    return found if (side, side) == (rows, columns) else {**found, "img_size": (side * patch[0], side * patch[1])}


def _side(area: int) -> int | None:
    """The side of a square of that area."""
    return isqrt(area) if area > 0 and isqrt(area) ** 2 == area else None


def _tokens(state: State, name: str) -> int:
    return state[name].shape[1] if name in state and state[name].ndim == 3 else 0


def fit(state: State, module: Any, path: Any, name: str) -> None:
    """Loads the weights into the module, converted as timm does it: older key names, positions of another size.

    Raises:
        InputError: they do not fit, or are no weights to compute with; what would make them fit, where that is known.
    """
    for key, value in state.items():
        check_plain(key, value, str(path))
    expected = module.state_dict()
    given = state
    # Where timm's conversion fails, the comparison below names what does not fit.
    with suppress(RuntimeError, KeyError, IndexError, AssertionError, AttributeError):
        state = sys.modules[type(module).__module__].checkpoint_filter_fn(dict(state), module)
    for key in ("pos_embed", STEM):
        # timm would resample a stem of other patches into one that was never trained; and it guesses the grid behind as
        # many positions as are needed, which may turn 2 × 8 into 4 × 4.
        if key in given and key in state and key in expected and given[key].ndim == expected[key].ndim:
            same = given[key].shape == expected[key].shape
            state[key] = given[key] if same or key == STEM else state[key]
    refuse_mismatch(state, expected, str(path), name, lambda: _what_would_fit(state, expected, module))
    check_weights(((key, state[key]) for key in expected if expected[key].is_floating_point()), str(path))
    module.load_state_dict(state)


def refuse_mismatch(
    state: State, expected: State, source: str, name: str, advice: Callable[[], str] = lambda: ""
) -> None:
    """Raises DoesNotFitError, with the names, unless both have the same tensors of the same shapes."""
    problems = {
        "": [
            f"{key} is {_shape(state[key])} in the file, {_shape(expected[key])} in the model"
            for key in expected
            if key in state and state[key].shape != expected[key].shape
        ],
        "the file lacks ": [key for key in expected if key not in state],
        "the model lacks ": [key for key in state if key not in expected],
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}{_some(found)}" for what, found in problems.items() if found)
        raise DoesNotFitError(f"{source} does not fit {name}: {listed}{advice()}")


def _what_would_fit(state: State, expected: State, module: Any) -> str:
    if not set(state) & set(expected):
        return f". No name agrees: its tensors are called {first_keys(state)}"
    hints = []
    stems = [tensors[STEM].shape[2:] for tensors in (state, expected) if STEM in tensors]
    if len(stems) == 2 and stems[0] != stems[1] and len(stems[0]) == 2:
        rows, columns = stems[0]
        size = rows if rows == columns else (rows, columns)
        hints.append(
            f"it cuts patches of {rows} × {columns}: open the model of those patches, or pass patch_size={size}"
        )
    if n_blocks(state) not in (0, len(module.blocks)):
        hints.append(f"it has {n_blocks(state)} blocks, the model {len(module.blocks)}: pass depth={n_blocks(state)}")
    if "fc_norm.weight" in state and "fc_norm.weight" not in expected:
        hints.append(
            'it normalises what was pooled, as models do that read the patches: pass global_pool="avg" (or "max", "avgmax")'
        )
    elif "fc_norm.weight" in expected and "norm.weight" in state and "norm.weight" not in expected:
        hints.append('it normalises before it pools, as models do that read the class token: pass global_pool="token"')
    if "cls_token" in expected and "cls_token" not in state:
        hints.append('it has no class token: pass class_token=False, global_pool="avg"')
    return "".join(f". {hint[0].upper()}{hint[1:]}" for hint in hints)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" (and {len(names) - 3} more)" if len(names) > 3 else "")


def n_blocks(state: State) -> int:
    """How many transformer blocks the keys name."""
    return len({match[1] for key in state if (match := re.match(r"blocks\.(\d+)\.", key))})


def _shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "a number"
