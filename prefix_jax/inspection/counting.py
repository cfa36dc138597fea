"""Parameter counts of each method on a model, trained and stored, computed from shapes by the methods' own code."""

from collections.abc import Mapping
from typing import Any

from prefix_jax import tuning
from prefix_jax.config import default_config
from prefix_jax.models import build
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.planning.abstract import base_shapes
from prefix_jax.tuning import Declaration
from prefix_jax.tuning.method import Parameters, parameter_counts

LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def parameters(model_config: ModelConfig, method: str, options: Mapping[str, Any]) -> Parameters:
    """Returns the counts of one method on a model.

    Args:
      options: by their dotted names; `share` stands for the option that a method grows by, and is a percentage of the
        model.

    Raises:
      UserError: an option does not suit the model.
    """
    options = dict(options)
    if share := options.pop("share", None):
        (found,) = tuning.declared(method).values()
        options[f"{found.name}.{found.grows_by}"] = size_of_share(model_config, found, share)
    config = default_config(method)
    config.update_from_flattened_dict(options)
    made = tuning.build(config, build(model_config))
    return parameter_counts(made, {"params": base_shapes(model_config, "float32")})


def size_of_share(model_config: ModelConfig, method: Declaration, share: float) -> int:
    """Returns the value, at least 1, of the option that a method grows by at which it stores nearest to a share of the
    model, in percent.
    """
    option = f"{method.name}.{method.grows_by}"
    one, two = (parameters(model_config, method.name, {option: size}) for size in (1, 2))
    each = two.stored - one.stored
    return max(1, round((share / 100 * one.base - (one.stored - each)) / each))


def parameters_by_method(model_config: ModelConfig) -> dict[str, Parameters]:
    """Returns the counts of every example of a method that the model can have, by its title."""
    found = {}
    for method in tuning.METHODS.values():
        if model_config.is_encoder_decoder and not method.encoder_decoder:
            continue
        for title, options in method.examples:
            named = {n if "." in n or n in ("method", "share") else f"{method.name}.{n}": v for n, v in options.items()}
            found[title] = parameters(model_config, named.pop("method", method.name), named)
    return found


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
