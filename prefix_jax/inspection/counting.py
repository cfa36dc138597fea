"""Parameter counts of each method on a model, trained and stored, computed from shapes by the methods' own code."""

from collections.abc import Mapping
from typing import Any

from prefix_jax import tuning
from prefix_jax.config import default_config
from prefix_jax.models import build
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.planning.abstract import base_shapes
from prefix_jax.tuning.method import Parameters, parameter_counts

_DIRECT = {"prefix.length": 10, "prefix.reparameterisation": "none"}
# Name, method, options. Adapters are specified by their percentage of the model, as in the paper.
METHODS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("prefix 10, direct", "prefix", _DIRECT),
    ("prefix 10, direct, keys alone", "prefix", {**_DIRECT, "prefix.trained": "keys"}),
    ("prefix 10, direct, values alone", "prefix", {**_DIRECT, "prefix.trained": "values"}),
    ("prefix 10, direct, with a gate", "prefix", {**_DIRECT, "prefix.gate": 16.0}),
    ("prefix 10 through an MLP of 512", "prefix", {"prefix.length": 10}),
    ("prefix 20 through an MLP of 512", "prefix", {"prefix.length": 20}),
    ("prefix 20 through an MLP of 512, embedding of 512", "prefix", {"prefix.length": 20, "prefix.embedding": 512}),
    ("infix 10, direct", "infix", {"infix.length": 10, "infix.reparameterisation": "none"}),
    ("prompt 20", "prompt", {"prompt.length": 20}),
    ("prompt 20 through an MLP of 512", "prompt", {"prompt.reparameterisation": "mlp"}),
    ("prompt 20 through an LSTM of 512", "prompt", {"prompt.reparameterisation": "lstm"}),
    ("LoRA, rank 8, query and value", "lora", {}),
    ("LoRA, rank 8, every matrix", "lora", {"lora.targets": "all"}),
    ("prefix 10, direct, and LoRA, rank 8", "prefix+lora", _DIRECT),
    ("adapters, 0.1 %", "adapter", {"share": 0.1}),
    ("adapters, 3 %", "adapter", {"share": 3.0}),
    ("fine-tuning, last 2 layers", "finetune", {"finetune.layers": 2}),
    ("fine-tuning", "finetune", {}),
)
LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def parameters(model_config: ModelConfig, method: str, options: Mapping[str, Any]) -> Parameters:
    """Returns the counts of one method; `share` replaces `adapter.width` and is a percentage of the model.

    Raises:
      UserError: an option does not suit the model.
    """
    options = dict(options)
    if share := options.pop("share", None):
        options["adapter.width"] = adapter_width(model_config, share)
    config = default_config()
    config.method = method
    config.update_from_flattened_dict(options)
    made = tuning.build(config, build(model_config))
    return parameter_counts(made, {"params": base_shapes(model_config, "float32")})


def adapter_width(model_config: ModelConfig, share: float) -> int:
    """Returns the adapter width (at least 1) whose size is closest to a percentage of the model."""
    one, two = (parameters(model_config, "adapter", {"adapter.width": width}) for width in (1, 2))
    each = two.stored - one.stored
    return max(1, round((share / 100 * one.base - (one.stored - each)) / each))


def parameters_by_method(model_config: ModelConfig) -> dict[str, Parameters]:
    """Returns the counts of every method that the model supports, by name."""
    possible = [row for row in METHODS if row[1] != "infix" or not model_config.is_encoder_decoder]
    return {name: parameters(model_config, method, options) for name, method, options in possible}


def parameters_by_length(model_config: ModelConfig) -> dict[str, list[int]]:
    """Returns the stored and trained parameters of a prefix and a prompt at each of `LENGTHS`."""
    lengths = [
        length for length in LENGTHS if model_config.context_length is None or length < model_config.context_length
    ]
    found = {"prefix, stored": [], "prefix, trained through an MLP": [], "prompt": []}
    for length in lengths:
        prefix = parameters(model_config, "prefix", {"prefix.length": length})
        found["prefix, stored"].append(prefix.stored)
        found["prefix, trained through an MLP"].append(prefix.trained)
        found["prompt"].append(parameters(model_config, "prompt", {"prompt.length": length}).stored)
    return {"length": lengths, **found}
