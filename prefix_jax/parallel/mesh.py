"""The device mesh of a configuration, and the sharding of each array of a training run."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from prefix_jax.errors import UserError
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.options import Config
from prefix_jax.parallel import rules

AXES = ("member", "data", "fsdp", "tensor", "groups")


@dataclass(frozen=True)
class MeshSharder:
    """A mesh, and the rules by which arrays are sharded over it.

    The axis `tensor` shards KV heads. If `mesh.tensor` exceeds the number of ways in which they can be divided, the
    rest becomes the axis `groups`, which shards the query heads of each KV head and replicates its keys and values.
    """

    mesh: Mesh

    @property
    def row_shards(self) -> int:
        """Number of shards of a batch's rows."""
        return math.prod(self.mesh.shape[axis] for axis in rules.ROWS)

    @cached_property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def base(self, shapes: PyTree) -> PyTree:
        """Returns the sharding of each frozen parameter, by its path in the tree."""
        return self._tree(rules.base_axes, shapes)

    def trained(self, shapes: PyTree, members: bool = False) -> PyTree:
        """Returns the sharding of each trained array, and of trees of the same structure (the optimizer's).

        `members`: every non-scalar array has a leading member axis.
        """
        return self._tree(partial(rules.trained_axes, members=members), shapes)

    def rows(self, leading: int = 0) -> NamedSharding:
        """Returns the sharding of a batch whose rows follow `leading` axes."""
        return NamedSharding(self.mesh, PartitionSpec(*(None,) * leading, rules.ROWS))

    def hidden(self, x: Array) -> Array:
        """Constrains hidden states `[batch, ..., E]` to the rows' sharding, so that weights move rather than states.

        A batch size not divisible by the rows' axes, as in small generation batches, is left to the compiler.
        """
        if x.shape[0] % self.row_shards:
            return x
        return jax.lax.with_sharding_constraint(x, self.rows())

    def gathered(self, x: Array, layer: PyTree) -> PyTree:
        """Gathers one layer's frozen weights over `fsdp` before they are multiplied with `x`.

        By default, the TPU compiler multiplies shard by shard, which with many shards gives products with few rows of
        the weights, each added to the full result. If the rows' axes do not divide the batch, all devices compute the
        same rows and the weights stay sharded.
        """
        if x.shape[0] % self.row_shards:
            return layer

        def whole(path: Any, leaf: Array) -> Array:
            axes = rules.base_axes(f"layers/{rules.spelled(path)}", leaf.ndim + 1)[1:]
            spec = self._spec([None if axis == "embed" else axis for axis in axes], leaf.shape)
            return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, spec))

        return jax.tree_util.tree_map_with_path(whole, layer)

    def table(self, tokens: Array) -> Array:
        """Constrains an embedding to row sharding during token lookup and logits."""
        spec = self._spec(("vocabulary", None), tokens.shape)
        return jax.lax.with_sharding_constraint(tokens, NamedSharding(self.mesh, spec))

    def cache(self, x: Array) -> Array:
        """Constrains cached keys or values `[layers, rows, kv_heads, length, head_dim]` to shards of rows and heads."""
        spec = self._spec((None, "rows", "kv_heads", None, None), x.shape)
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

    def everywhere(self, x: Array) -> Array:
        """Constrains an array to be whole on every device."""
        return jax.lax.with_sharding_constraint(x, self.replicated)

    def own_rows_of(self, run: Callable, rows: tuple[Array, ...], rest: PyTree) -> Array:
        """Calls `run(*rows, rest)` with each device's own rows of a batch, so that a sort moves none between devices.

        The other axes of the mesh are left to the compiler, as is a batch that the rows' axes do not divide.
        """
        if self.row_shards == 1 or rows[0].shape[0] % self.row_shards:
            return run(*rows, rest)
        own = PartitionSpec(rules.ROWS)
        names = {*rules.ROWS, "member"}  # members are mapped over their own axis
        specs = (*(own for _ in rows), PartitionSpec())
        whole = jax.shard_map(run, mesh=self.mesh, in_specs=specs, out_specs=own, axis_names=names, check_vma=False)
        return whole(*rows, rest)

    def divided(self, run: Callable, operands: PyTree, axes: PyTree, result: tuple[str | None, ...]) -> Array:
        """Runs a kernel, which the compiler cannot partition, with `run(operands)` on each device's shards.

        `axes` gives the axes of each array as a plain tuple, `result` those of the output of `run`.
        """

        def spec(names: tuple[str | None, ...], leaf: Any) -> PartitionSpec:
            return self._spec(names, leaf.shape)

        parts = jax.tree.map(spec, axes, operands, is_leaf=lambda x: type(x) is tuple)
        whole = spec(result, jax.eval_shape(run, operands))
        return jax.shard_map(run, mesh=self.mesh, in_specs=(parts,), out_specs=whole, check_vma=False)(operands)

    def batch(self, batch: PyTree, leading: int = 0) -> PyTree:
        """Puts a batch of numpy arrays on the mesh, padded with empty rows to a multiple of `row_shards`.

        A row of zeros has weight 0 and segment id 0, so that it contributes nothing.
        """
        return jax.tree.map(partial(self._placed, leading=leading), batch)

    def own_rows(self, rows: int, parts: int = 1) -> np.ndarray:
        """Returns a boolean array of the batch rows on this process' devices, for `parts` micro-batches."""
        padded = -(-rows // (parts * self.row_shards)) * self.row_shards
        own = np.zeros((parts, padded), bool)
        for index in self.rows(leading=1).addressable_devices_indices_map(own.shape).values():
            own[index] = True
        return own[:, : rows // parts].reshape(-1)

    def _placed(self, leaf: np.ndarray, leading: int) -> Array:
        missing = -leaf.shape[leading] % self.row_shards
        if missing:
            leaf = np.pad(leaf, [(0, missing if axis == leading else 0) for axis in range(leaf.ndim)])
        return jax.make_array_from_callback(leaf.shape, self.rows(leading), lambda index: leaf[index])

    def _tree(self, axes_of: Any, shapes: PyTree) -> PyTree:
        def sharding(path: Any, leaf: Any) -> NamedSharding:
            return NamedSharding(self.mesh, self._spec(axes_of(rules.spelled(path), len(leaf.shape)), leaf.shape))

        return jax.tree_util.tree_map_with_path(sharding, shapes)

    def _spec(self, axes: Sequence[str | None], shape: Sequence[int]) -> PartitionSpec:
        """Returns the mesh axes of each dimension; a dimension not divisible by its axes is replicated."""

        def fitting(axis: str | None, size: int) -> Any:
            names = rules.MESH_AXES.get(axis or "", ())
            return names if names and size % math.prod(self.mesh.shape[name] for name in names) == 0 else None

        return PartitionSpec(*(fitting(axis, size) for axis, size in zip(axes, shape, strict=True)))


def place(section: Config, model_config: ModelConfig, devices: Sequence[Any]) -> MeshSharder:
    """Returns the sharder for these devices according to the section `mesh`.

    Raises:
      UserError: the mesh sizes do not match the number of devices, or do not divide the model's heads.
    """
    member = int(section.member)
    if member < 1 or len(devices) % member:
        raise UserError(
            f"mesh.member is {member}; it must be at least 1 and divide the {len(devices)} available devices"
        )
    data, fsdp, tensor = sizes(section, len(devices) // member)
    return MeshSharder(_mesh(devices, (member, data, fsdp, *_tensor_axes(tensor, model_config))))


def sizes(section: Config, count: int) -> tuple[int, int, int]:
    """Returns the sizes of data, fsdp and tensor for a number of devices; `data=0` uses all remaining devices.

    Raises:
      UserError: the sizes do not match the number of devices.
    """
    named = {name: int(section[name]) for name in ("data", "fsdp", "tensor")}
    for name, size in named.items():
        if size < (0 if name == "data" else 1):
            raise UserError(f"mesh.{name} is {size}; it must be at least {0 if name == 'data' else 1}")
    data, fsdp, tensor = named.values()
    if not data:
        if count % (fsdp * tensor):
            raise UserError(
                f"mesh.fsdp={fsdp} x mesh.tensor={tensor} does not divide the {count} available devices; choose "
                "sizes whose product does"
            )
        data = count // (fsdp * tensor)
    if data * fsdp * tensor != count:
        raise UserError(
            f"mesh.data={data} x mesh.fsdp={fsdp} x mesh.tensor={tensor} makes {data * fsdp * tensor} devices, and "
            f"there are {count}; set --config.mesh.data=0 to have it chosen"
        )
    return data, fsdp, tensor


def _tensor_axes(tensor: int, model_config: ModelConfig) -> tuple[int, int]:
    """Returns the sizes of the mesh axes `tensor` and `groups`."""
    if model_config.heads % tensor:
        raise UserError(
            f"mesh.tensor is {tensor}, and the model's {model_config.heads} query heads cannot be divided by it; "
            "choose a "
            f"divisor of {model_config.heads}"
        )
    shared = math.gcd(tensor, model_config.kv_heads)
    return shared, tensor // shared


def _mesh(devices: Sequence[Any], shape: tuple[int, ...]) -> Mesh:
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=tuple(devices))
