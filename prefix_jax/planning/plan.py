"""Plans: the training step compiled for a topology and a mesh, its cost, and whether it fits in memory."""

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax

from prefix_jax.config import check_ranges
from prefix_jax.errors import UserError
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.options import Config
from prefix_jax.parallel.mesh import place, sizes
from prefix_jax.planning.abstract import Work, base_shapes, lowered_step
from prefix_jax.planning.cost import Cost, cost_of
from prefix_jax.planning.topologies import GIB, Topology, devices

# HBM reserved by the runtime.
_RESERVED = GIB // 4
# The compiler's two messages about the memory needed by a program that does not fit.
_TOO_LARGE = re.compile(r"(?:Used |\()([\d.]+)([KMGT]?)(?: of [\d.]+[KMGT]? hbm|\) exceeds available HBM)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_LARGEST_TENSOR = 32


@dataclass(frozen=True)
class Mesh:
    """Mesh sizes, as in the section `mesh`."""

    data: int
    fsdp: int
    tensor: int


@dataclass(frozen=True)
class Plan:
    """The compiler's result for one mesh. `cost` is None if compilation ran out of memory; `used` is then the memory
    that it would have needed.
    """

    topology: Topology
    mesh: Mesh
    work: Work
    tokens: int
    cost: Cost | None
    used: int
    compile_seconds: float

    @property
    def available(self) -> int:
        return int(self.topology.chip.memory) - _RESERVED

    @property
    def shortfall(self) -> int:
        """Missing bytes per chip; 0 if the step fits."""
        return max(0, self.used - self.available)

    @property
    def seconds(self) -> dict[str, float]:
        return {} if self.cost is None else self.cost.seconds(self.topology.chip)

    @property
    def bound(self) -> str:
        """The bottleneck: compute, memory, links, or the compiler's own estimate for the cores."""
        return max(self.seconds, key=lambda name: self.seconds[name], default="memory")

    @property
    def step_seconds(self) -> float:
        return max(self.seconds.values(), default=math.inf)

    @property
    def tokens_per_second(self) -> float:
        """Upper bound, which assumes that resources other than the bottleneck are fully overlapped."""
        return self.tokens / self.step_seconds

    def as_json(self) -> dict[str, Any]:
        cost = self.cost
        return {
            "topology": self.topology.name,
            "chips": self.topology.chips,
            "mesh": vars(self.mesh),
            "rows": self.work.rows,
            "columns": self.work.columns,
            "targets": self.work.targets,
            "fits": not self.shortfall,
            "bytes_per_chip": self.used,
            "bytes_available": self.available,
            "shortfall": self.shortfall,
            "flops_per_chip": cost and cost.flops,
            "bytes_moved_per_chip": cost and cost.bytes_moved,
            "bytes_sent_per_chip": cost and cost.bytes_sent,
            "collectives": cost and cost.collectives,
            "seconds": self.seconds,
            "bound": self.bound if cost else None,
            "step_seconds": self.step_seconds if cost else None,
            "tokens_per_step": self.tokens,
            "tokens_per_second": self.tokens_per_second if cost else None,
            "compile_seconds": round(self.compile_seconds, 1),
        }


def work_of(config: Config, model_config: ModelConfig, rows: int = 0, columns: int = 0, targets: int = 0) -> Work:
    """Returns the sizes of a step: those given, and for the rest one record per row, of the maximum length that the
    configuration allows.
    """
    data = config.data
    longest = data.max_source_length + (0 if model_config.is_encoder_decoder else data.max_target_length)
    return Work(rows or config.training.batch, columns or data.row_length or longest, targets or data.max_target_length)


def plan(config: Config, model_config: ModelConfig, topology: Topology, work: Work) -> Plan:
    """Compiles a configuration's step for a topology.

    Raises:
      UserError: the mesh does not match the topology, the model or the rows; or libtpu is missing.
    """
    check_ranges(config)
    if config.mesh.member != 1:
        raise UserError(f"mesh.member is {config.mesh.member}, and what is planned is one run; leave it at 1")
    mesh = Mesh(*sizes(config.mesh, topology.chips))
    _check(model_config, work, mesh, config.training.accumulation)
    sharder = place(config.mesh, model_config, devices(topology))
    began = time.monotonic()
    lowered = lowered_step(config, model_config, sharder, work)
    tokens = work.rows * (work.columns + (work.targets if model_config.is_encoder_decoder else 0))
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        found = _TOO_LARGE.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or not found:
            raise
        used = int(float(found[1]) * _UNITS[found[2]])
        return Plan(topology, mesh, work, tokens, None, used, time.monotonic() - began)
    cost = cost_of(compiled, topology.chip)
    return Plan(topology, mesh, work, tokens, cost, cost.peak, time.monotonic() - began)


def _check(model_config: ModelConfig, work: Work, mesh: Mesh, parts: int) -> None:
    shards = mesh.data * mesh.fsdp * parts
    if work.rows % shards:
        raise UserError(
            f"a step of {work.rows} rows cannot be divided over {mesh.data} x {mesh.fsdp} devices"
            + (f" in {parts} parts" if parts > 1 else "")
            + f"; set --batch to a multiple of {shards}, or more --config.mesh.tensor"
        )
    if model_config.context_length is not None and work.columns > model_config.context_length:
        raise UserError(
            f"rows of {work.columns} columns exceed the model's window of {model_config.context_length}; "
            "set --sequence_length"
        )


def search(
    config: Config, model_config: ModelConfig, topology: Topology, work: Work, most: int, done: Callable[[Plan], None]
) -> list[Plan]:
    """Compiles the `most` promising meshes of a topology; returns plans that fit first, then by speed.

    Raises:
      UserError: no mesh divides the model's heads and the rows.
    """
    meshes = list(candidates(config, model_config, topology, work))
    if not meshes:
        raise UserError(
            f"no mesh of {topology.chips} devices divides {work.rows} rows and {model_config.heads} query heads; "
            "set --batch to "
            f"a multiple of {topology.chips}"
        )
    plans = []
    for mesh in sorted(meshes, key=lambda mesh: _promise(config, model_config, topology, work, mesh))[:most]:
        chosen = config.copy_and_resolve_references()
        chosen.mesh.update(vars(mesh))
        plans.append(plan(chosen, model_config, topology, work))
        done(plans[-1])
    return sorted(plans, key=lambda found: (found.shortfall, found.step_seconds))


def candidates(config: Config, model_config: ModelConfig, topology: Topology, work: Work) -> Iterator[Mesh]:
    """Yields the meshes whose sizes divide what they shard."""
    for tensor in _divisors(topology.chips):
        if tensor > _LARGEST_TENSOR or model_config.heads % tensor:
            continue
        rest = topology.chips // tensor
        if work.rows % (rest * config.training.accumulation):
            continue
        for fsdp in _divisors(rest):
            if model_config.d_model % fsdp == 0:
                yield Mesh(rest // fsdp, fsdp, tensor)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _promise(
    config: Config, model_config: ModelConfig, topology: Topology, work: Work, mesh: Mesh
) -> tuple[float, float]:
    """Guesses, without compiling, how much memory a mesh lacks and how many bytes its chips send: less is better."""
    width = 2 if config.model.dtype == "bfloat16" else 4
    leaves = jax.tree.leaves(base_shapes(model_config, config.model.dtype, config.model.quantisation))
    base = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    layers = model_config.layers + model_config.encoder_layers
    states = width * work.rows * work.columns * model_config.d_model / (mesh.data * mesh.fsdp)
    kept = 1 if config.model.rematerialise else 8
    memory = base / (mesh.fsdp * mesh.tensor) + kept * layers * states
    gathered = 2 * base / mesh.tensor * (mesh.fsdp - 1) / mesh.fsdp
    summed = 8 * layers * states * (mesh.tensor - 1) / mesh.tensor
    return max(0.0, memory - (topology.chip.memory - _RESERVED)), gathered + summed
