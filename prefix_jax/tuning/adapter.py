"""Adapters (Houlsby et al. 2019): a bottleneck after the attentions and the MLP of each layer.

The trainable tree follows the layers': `{"down": {kernel [layers, E, width], bias}, "up": {kernel [layers, width, E],
bias}}`. `up` starts at zero, so that training starts at the frozen model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from prefix_jax.errors import UserError
from prefix_jax.models import Model
from prefix_jax.models.adapter_layers import ADAPTER
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.options import Config, several
from prefix_jax.tuning.declaration import Declaration, Section
from prefix_jax.tuning.method import Method
from prefix_jax.tuning.method_options import MethodOptions
from prefix_jax.tuning.tuned_state import TunedState, Variables

PLACES = ("attention", "cross", "mlp")


@dataclass(frozen=True, kw_only=True, repr=False)
class Adapter(MethodOptions):
    """Options of adapters (Houlsby et al. 2019).

    Attributes:
      width: width of the bottleneck.
      places: "all", or a comma-separated choice of attention, cross, mlp: the sublayers that an adapter follows.

    >>> pj.Adapter(width=16)
    Adapter(width=16)
    """

    method: ClassVar[str] = "adapter"
    width: int = 64
    places: str = "all"


def method(model: Model, section: Config, init_token_ids: Sequence[int]) -> Method:
    """Returns adapters for a model; see `tuning.build`."""
    named = several("adapter.places", section.places, PLACES)
    stacks = _stacks(model.model_config, named)
    if not any(places for _, places in stacks.values()):
        raise UserError(f'adapter.places is "{section.places}", and this model has no such attention')

    def init(key: Array, base: Variables) -> PyTree:
        tree: dict = {}
        for number, (path, (layers, places)) in enumerate(stacks.items()):
            node = tree
            for part in path:
                node = node.setdefault(part, {})
            for place in places:
                own = jax.random.fold_in(jax.random.fold_in(key, number), PLACES.index(place))
                node[f"{place}_adapter"] = _bottleneck(own, layers, model.model_config.d_model, section.width)
        return tree

    return Method(init, lambda trainable, base, key=None: TunedState(None, {ADAPTER: trainable}))


def _stacks(model_config: ModelConfig, named: Sequence[str]) -> dict[tuple[str, ...], tuple[int, list[str]]]:
    """Returns for each stack of layers, by its path, how many there are and where adapters go."""
    inside = [place for place in PLACES if place in named and place != "cross"]
    if not model_config.is_encoder_decoder:
        return {("layers",): (model_config.layers, inside)}
    return {
        ("encoder", "layers"): (model_config.encoder_layers, inside),
        ("decoder", "layers"): (model_config.layers, [place for place in PLACES if place in named]),
    }


def _bottleneck(key: Array, layers: int, outer: int, width: int) -> PyTree:
    return {
        "down": {
            "kernel": jax.random.normal(key, (layers, outer, width)) * outer**-0.5,
            "bias": jnp.zeros((layers, width)),
        },
        "up": {"kernel": jnp.zeros((layers, width, outer)), "bias": jnp.zeros((layers, outer))},
    }


def _kind(section: Section, share: float) -> str:
    """The paper has adapters of 0.1 % and of 3 % of the model; the small ones are a kind of their own."""
    return "adapters, 0.1 %" if share <= 0.01 else "adapters"


METHOD = Declaration(
    name="adapter",
    title="Adapter tuning",
    section=Adapter.section,
    build=method,
    kind=_kind,
    label=lambda section, share: f"adapters, {100 * share:.3g} %",
    ranges={"at least 1": ("width",)},
    sets=("places",),
    grows_by="width",
    examples=(("adapters, 0.1 %", {"share": 0.1}), ("adapters, 3 %", {"share": 3.0})),
)
