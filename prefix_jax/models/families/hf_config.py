"""Readers of Hugging Face's `config.json` options that several families share."""

from typing import Any

from prefix_jax.errors import UserError

Config = dict[str, Any]


def refuse(config: dict, option: str, allowed: tuple) -> None:
    """Raises UserError if an option is set to a value outside `allowed`, the first of which is its default."""
    if config.get(option, allowed[0]) not in allowed:
        raise UserError(
            f"this {config['model_type']} model has {option}={config[option]!r}, which is not supported "
            f"(only {', '.join(repr(a) for a in allowed)})"
        )


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


def rotary_scaling(rope: dict) -> tuple | None:
    """Returns the scaling of rotary positions in the form of `Rotary`."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return ("linear", float(rope["factor"]))
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        return ("llama3", *(float(rope[n]) for n in names))
    raise UserError(f'rotary scaling "{kind}" is not supported (only default, linear, llama3)')


def rope_parameters(c: dict) -> dict:
    """Returns the rotary parameters, with transformers' precedence among their several forms."""
    found = dict(c.get("rope_scaling") or c.get("rope_parameters") or {})
    found["rope_theta"] = found.get("rope_theta") or c.get("rope_theta") or 10000.0
    original = c.get("original_max_position_embeddings")
    return {**found, "original_max_position_embeddings": original} if original else found
