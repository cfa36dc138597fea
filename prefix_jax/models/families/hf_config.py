"""Readers of Hugging Face's `config.json` options that several families share."""

import math
from typing import Any

from prefix_jax.errors import UserError

Config = dict[str, Any]
LAYER_TYPES = ("full_attention", "sliding_attention")


def refuse(config: dict, option: str, allowed: tuple) -> None:
    """Raises UserError if an option is set to a value outside `allowed`, the first of which is its default."""
    if config.get(option, allowed[0]) not in allowed:
        raise UserError(
            f"this {config['model_type']} model has {option}={config[option]!r}, which is not supported "
            f"(only {', '.join(repr(a) for a in allowed)})"
        )


def check_attention(config: dict) -> None:
    """Raises UserError if attention is of a kind that transformers computes for any family, and no network here."""
    refuse(config, "is_causal", (True, None))
    for kind in config.get("layer_types") or ():
        refuse({"model_type": config["model_type"], "layer_types": kind}, "layer_types", LAYER_TYPES)


def first_id(value: Any, default: Any = None) -> Any:
    """Returns an id, or the first of a list of ids."""
    if isinstance(value, list):
        value = value[0] if value else None
    return default if value is None else value


def end_ids(c: dict, default: int) -> dict[str, Any]:
    """Returns the model config fields of end tokens, of which some models list several."""
    ids = c.get("eos_token_id")
    first = first_id(ids, default)
    return {"eos_id": first, "more_eos_ids": tuple(i for i in ids[1:] if i != first) if isinstance(ids, list) else ()}


def rotary_scaling(rope: Config, positions: int) -> tuple | None:
    """Returns the scaling of rotary positions, as `Rotary` has it, for a context of so many positions."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    # "dynamic" changes frequencies only beyond `max_position_embeddings`, where a context ends here.
    if kind in ("default", "dynamic"):
        return None
    if kind == "linear":
        return ("linear", float(rope["factor"]))
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        return ("llama3", *(float(rope[n]) for n in names))
    if kind == "yarn":
        return _yarn(rope, positions)
    if kind in ("longrope", "su"):
        return ("longrope", _longrope_amplitude(rope, positions), *map(float, rope["short_factor"]))
    raise UserError(f'rotary scaling "{kind}" is not supported (only default, dynamic, linear, llama3, longrope, yarn)')


def rotary_context(rope: Config, positions: int) -> int:
    """Returns how many positions a context may have: with "longrope", those up to which its frequencies are the short
    ones (beyond them transformers changes all frequencies, also those of keys that a prefix or a cache holds).
    """
    long = rope.get("rope_type", rope.get("type")) in ("longrope", "su")
    return min(positions, rope.get("original_max_position_embeddings") or positions) if long else positions


def _yarn(rope: Config, positions: int) -> tuple:
    original = rope.get("original_max_position_embeddings") or positions
    factor = rope.get("factor") or positions / original
    amplitude = rope.get("attention_factor")
    if amplitude is None:
        over, under = rope.get("mscale"), rope.get("mscale_all_dim")
        over, under = (over, under) if over and under else (1.0, 0.0)
        amplitude = _magnitude(factor, over) / _magnitude(factor, under)
    ends = (float(rope.get("beta_fast") or 32), float(rope.get("beta_slow") or 1))
    return ("yarn", float(amplitude), float(factor), *ends, float(original), bool(rope.get("truncate", True)))


def _magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _longrope_amplitude(rope: Config, positions: int) -> float:
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    original = rope.get("original_max_position_embeddings") or positions
    factor = rope.get("factor") or positions / original
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))


def rope_parameters(c: dict) -> dict:
    """Returns the rotary parameters, with transformers' precedence among their several forms."""
    found = dict(c.get("rope_scaling") or c.get("rope_parameters") or {})
    found["rope_theta"] = found.get("rope_theta") or c.get("rope_theta") or 10000.0
    original = c.get("original_max_position_embeddings")
    return {**found, "original_max_position_embeddings": original} if original else found
