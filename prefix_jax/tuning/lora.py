"""LoRA (Hu et al. 2021): a product of two narrow matrices beside each chosen frozen one; never merged while training.

The trainable tree follows the layers': at each projection `{"a": [layers, inputs, rank], "b": [layers, rank,
*outputs]}`, or one such pair for each of a fused projection's query, key and value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from prefix_jax.errors import UserError
from prefix_jax.models import Model
from prefix_jax.models.adapter_layers import LORA, PARTS
from prefix_jax.models.matmul import precision
from prefix_jax.options import Config, several
from prefix_jax.tuning.declaration import Declaration
from prefix_jax.tuning.method import Method
from prefix_jax.tuning.method_options import MethodOptions
from prefix_jax.tuning.tuned_state import TunedState, Variables

# What a target names: the projections, and the parts of those that are fused.
_FUSED = {"qkv": PARTS, "key_value": PARTS[1:]}
TARGETS = (*PARTS, "out", "gate", "up", "down")


@dataclass(frozen=True, kw_only=True, repr=False)
class LoRA(MethodOptions):
    """Options of LoRA (Hu et al. 2021).

    Attributes:
      rank: width between the two matrices.
      alpha: the update is multiplied by alpha / rank.
      targets: "all", or a comma-separated choice of query, key, value, out, gate, up, down.

    >>> pj.LoRA(rank=4, targets="query,key,value")
    LoRA(rank=4, targets='query,key,value')
    """

    method: ClassVar[str] = "lora"
    rank: int = 8
    alpha: float = 16.0
    targets: str = "query,value"


def method(model: Model, section: Config, init_token_ids: Sequence[int]) -> Method:
    """Returns LoRA for a model; see `tuning.build`."""
    targets = several("lora.targets", section.targets, TARGETS)

    def init(key: Array, base: Variables) -> PyTree:
        found = _init(key, base["params"], targets, section.rank)
        if not found:
            raise UserError(f'lora.targets is "{section.targets}", and this model has none of these')
        return found

    def export(trainable: PyTree, base: Variables, key: Array | None = None) -> TunedState:
        scale = section.alpha / section.rank
        return TunedState(None, {LORA: _map_pairs(lambda pair: {"a": pair["a"], "b": scale * pair["b"]}, trainable)})

    return Method(init, export)


def _init(key: Array, params: Mapping[str, Any], targets: Sequence[str], rank: int, inside: bool = False) -> dict:
    found = {}
    for number, (name, tree) in enumerate(sorted(params.items())):
        own = jax.random.fold_in(key, number)
        if not isinstance(tree, Mapping):
            continue
        if inside and "kernel" in tree:
            pairs = _pairs(own, name, tree["kernel"].shape, targets, rank)
        else:
            pairs = _init(own, tree, targets, rank, inside or name == "layers")
        found |= {name: pairs} if pairs else {}
    return found


def _pairs(key: Array, name: str, shape: tuple[int, ...], targets: Sequence[str], rank: int) -> dict:
    """Returns the pairs of one projection with a kernel of `shape`, `[layers, *inputs, *outputs]`."""
    if name not in _FUSED:
        inputs = len(shape) - 2 if name == "out" else 1
        return _pair(key, shape, inputs, rank) if name in targets else {}
    widths = {"query": shape[-2] - 2, "key": 1, "value": 1}
    return {
        part: _pair(jax.random.fold_in(key, n), (*shape[:-2], widths[part], shape[-1]), 1, rank)
        for n, part in enumerate(_FUSED[name])
        if part in targets
    }


def _pair(key: Array, shape: tuple[int, ...], inputs: int, rank: int) -> dict[str, Array]:
    """a: uniform, as a linear layer's weights are in torch (He et al. 2015, with a slope of sqrt(5)); b: zeros."""
    layers, before, after = shape[0], shape[1 : 1 + inputs], shape[1 + inputs :]
    width = 1
    for size in before:
        width *= size
    a = jax.random.uniform(key, (layers, width, rank), minval=-1.0, maxval=1.0) * width**-0.5
    return {"a": a, "b": jnp.zeros((layers, rank, *after))}


def _map_pairs(change: Any, tree: Any) -> Any:
    return change(tree) if "a" in tree else {name: _map_pairs(change, below) for name, below in tree.items()}


def merged(params: Mapping[str, Any], lora: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters with the updates of a collection `lora` added to their kernels: as fast as without.

    Raises:
      UserError: the kernels are integers.
    """
    found = dict(params)
    for name, tree in lora.items():
        if "kernel" in params[name]:
            kernel = params[name]["kernel"]
            if not jnp.issubdtype(kernel.dtype, jnp.floating):
                raise UserError("updates cannot be merged into weights of 8 bits; set --config.model.quantisation=none")
            change = _update(tree, kernel.shape).astype(jnp.float32)
            found[name] = {**params[name], "kernel": (kernel.astype(jnp.float32) + change).astype(kernel.dtype)}
        else:
            found[name] = merged(params[name], tree)
    return found


def _update(tree: Mapping[str, Any], shape: tuple[int, ...]) -> Array:
    if "a" in tree:
        b = tree["b"].reshape(*tree["b"].shape[:2], -1)
        return jnp.einsum("lir,lro->lio", tree["a"], b, precision=precision(b.dtype)).reshape(shape)
    widths = (shape[-2] - 2, 1, 1)
    pieces = []
    for part, width in zip(PARTS, widths, strict=True):
        piece = (*shape[:-2], width, shape[-1])
        pieces.append(_update(tree[part], piece) if part in tree else jnp.zeros(piece))
    return jnp.concatenate(pieces, axis=-2)


METHOD = Declaration(
    name="lora",
    title="LoRA",
    section=LoRA.section,
    build=method,
    kind=lambda section, share: "LoRA",
    label=lambda section, share: f"LoRA, rank {section['rank']}",
    ranges={"at least 1": ("rank",), "above 0": ("alpha",)},
    sets=("targets",),
    all_of={"targets": TARGETS},
    examples=(
        ("LoRA, rank 8, query and value", {}),
        ("LoRA, rank 8, every matrix", {"targets": "all"}),
        (
            "prefix 10, direct, and LoRA, rank 8",
            {"method": "prefix+lora", "prefix.length": 10, "prefix.reparameterisation": "none"},
        ),
    ),
)
