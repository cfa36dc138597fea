"""Fine-tuning the model's own weights: all of them, or those of the last layers (the paper's FT-TOP2).

The trainable tree is a part of the model's, in float32; of a stack of layers the last ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from prefix_jax.errors import UserError
from prefix_jax.models import Model
from prefix_jax.models.adapter_layers import TUNED
from prefix_jax.options import Config
from prefix_jax.tuning.declaration import Declaration, Section
from prefix_jax.tuning.method import Method
from prefix_jax.tuning.method_options import MethodOptions
from prefix_jax.tuning.tuned_state import TunedState, Variables


@dataclass(frozen=True, kw_only=True, repr=False)
class Finetune(MethodOptions):
    """Options of fine-tuning.

    Attributes:
      layers: how many of the last layers are trained, with the norm after them; 0: all weights.

    >>> pj.Finetune(layers=2)
    Finetune(layers=2)
    """

    method: ClassVar[str] = "finetune"
    layers: int = 0


def method(model: Model, section: Config, init_token_ids: Sequence[int]) -> Method:
    """Returns fine-tuning for a model; see `tuning.build`. `section.layers` 0: everything."""
    model_config, layers = model.model_config, section.layers
    if not 0 <= layers <= model_config.layers:
        raise UserError(f"finetune.layers is {layers}; it must be 0 (all weights) or at most {model_config.layers}")

    def init(key: Array, base: Variables) -> PyTree:
        for leaf in jax.tree.leaves(base["params"]):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise UserError("weights of 8 bits cannot be tuned; set --config.model.quantisation=none")
        chosen = base["params"] if not layers else _last(base["params"], layers, model_config.is_encoder_decoder)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), chosen)

    def export(trainable: PyTree, base: Variables, key: Array | None = None) -> TunedState:
        return TunedState(None, {TUNED: _in_type(trainable, base["params"], model.activations)})

    return Method(init, export)


def _last(params: Mapping[str, Any], layers: int, encoder_decoder: bool) -> dict[str, Any]:
    """Returns the last layers and the norm after them: of an encoder-decoder, those of the decoder."""
    if encoder_decoder:
        return {"decoder": _last(params["decoder"], layers, encoder_decoder=False)}
    after = {"final_norm": params["final_norm"]} if "final_norm" in params else {}
    return {"layers": jax.tree.map(lambda leaf: leaf[-layers:], params["layers"]), **after}


def _in_type(trainable: PyTree, params: Any, activations: Any) -> PyTree:
    """Returns weights in the type in which the model multiplies, unless it is float32."""
    if activations is None or jnp.dtype(activations) == jnp.float32:
        return trainable
    return jax.tree.map(lambda leaf: leaf.astype(activations), trainable)


def _label(section: Section, share: float) -> str:
    return f"fine-tuning, last {section['layers']} layers" if section["layers"] else "fine-tuning"


METHOD = Declaration(
    name="finetune",
    title="Fine-tuning",
    section=Finetune.section,
    build=method,
    kind=_label,
    label=_label,
    ranges={"at least 0": ("layers",)},
    changes_base=True,
    examples=(("fine-tuning, last 2 layers", {"layers": 2}), ("fine-tuning", {})),
)
