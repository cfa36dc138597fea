"""Which axes arrays have, by their paths, and which mesh axes divide them: one table for all models and methods."""

import re
from typing import Any

from prefix_jax.tuning import METHODS

# What the axes of a mesh divide. The rows of a batch lie over both `data` and `fsdp`.
ROWS = ("data", "fsdp")
MESH_AXES: dict[str, tuple[str, ...]] = {
    "rows": ROWS,
    "embed": ("fsdp",),
    "vocabulary": ("tensor", "groups"),
    "inner": ("tensor", "groups"),
    "kv_heads": ("tensor",),
    "query_groups": ("groups",),
    "bottleneck": ("fsdp",),
    "members": ("member",),
}

# The ends of paths, and the axes of what is there. `parts`: a KV head's queries, its key, its value.
_BASE = (
    (r"layers/.*(qkv|query|key_value)/kernel", ("layers", "embed", "kv_heads", "parts", "head")),
    (r"layers/.*(qkv|query|key_value)/(bias|scale)", ("layers", "kv_heads", "parts", "head")),
    (r"layers/.*out/kernel", ("layers", "kv_heads", "query_groups", "head", "embed")),
    (r"layers/.*(gate|up)/kernel", ("layers", "embed", "inner")),
    (r"layers/.*(gate|up)/(bias|scale)", ("layers", "inner")),
    (r"layers/.*down/kernel", ("layers", "inner", "embed")),
    (r"(embedding|head)/tokens", ("vocabulary", "embed")),
)
_TRAINED = tuple(rule for method in METHODS.values() for rule in method.axes)


def base_axes(path: str, rank: int) -> tuple[str | None, ...]:
    """Returns the axes of a frozen parameter; what no rule names (norms, positions) is replicated."""
    return _axes(_BASE, path, rank)


def trained_axes(path: str, rank: int, members: bool = False) -> tuple[str | None, ...]:
    """Returns the axes of a trained array, or of an optimizer's that repeats it; with `members`, theirs comes first."""
    if members and rank:
        return ("members", *_axes(_TRAINED, path, rank - 1))
    return _axes(_TRAINED, path, rank)


def spelled(path: Any) -> str:
    """Returns a path of keys as jax gives it in the form `layers/mlp/up/kernel`."""
    return "/".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)


def _axes(table: Any, path: str, rank: int) -> tuple[str | None, ...]:
    for pattern, axes in table:
        if re.search(rf"(^|/){pattern}$", path) and rank == len(axes):
            return axes
    return (None,) * rank
