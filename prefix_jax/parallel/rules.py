"""Logical axes of arrays by path, and the mesh axes that shard them: one table for all models and methods."""

import re
from typing import Any

from prefix_jax.tuning import METHODS

# Logical axes sharded by each mesh axis. Batch rows are sharded over both `data` and `fsdp`.
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

# Path suffixes and the logical axes of their arrays. `parts`: a KV head's queries, key and value. Every device has
# a share of each expert, not some of the experts: `experts` is not sharded.
_BASE = (
    (r"layers/.*(qkv|query|key_value)/kernel", ("layers", "embed", "kv_heads", "parts", "head")),
    (r"layers/.*(qkv|query|key_value)/(bias|scale)", ("layers", "kv_heads", "parts", "head")),
    (r"layers/.*out/kernel", ("layers", "kv_heads", "query_groups", "head", "embed")),
    (r"layers/.*(gate|up)/kernel", ("layers", "embed", "inner")),
    (r"layers/.*(gate|up)/(bias|scale)", ("layers", "inner")),
    (r"layers/.*down/kernel", ("layers", "inner", "embed")),
    (r"layers/.*experts_(gate|up)/kernel", ("layers", "experts", "embed", "inner")),
    (r"layers/.*experts_(gate|up)/(bias|scale)", ("layers", "experts", "inner")),
    (r"layers/.*experts_down/kernel", ("layers", "experts", "inner", "embed")),
    (r"(embedding|head)/tokens", ("vocabulary", "embed")),
)
_TRAINED = tuple(rule for method in METHODS.values() for rule in method.axes)


def base_axes(path: str, rank: int) -> tuple[str | None, ...]:
    """Returns the axes of a frozen parameter; paths without a rule (norms, positions) are replicated."""
    return _axes(_BASE, path, rank)


def trained_axes(path: str, rank: int, members: bool = False) -> tuple[str | None, ...]:
    """Returns the axes of a trained array, or of an optimizer's copy; with `members`, the member axis comes first."""
    if members and rank:
        return ("members", *_axes(_TRAINED, path, rank - 1))
    return _axes(_TRAINED, path, rank)


def spelled(path: Any) -> str:
    """Returns a JAX key path in the form `layers/mlp/up/kernel`."""
    return "/".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)


def _axes(table: Any, path: str, rank: int) -> tuple[str | None, ...]:
    for pattern, axes in table:
        if re.search(rf"(^|/){pattern}$", path) and rank == len(axes):
            return axes
    return (None,) * rank
