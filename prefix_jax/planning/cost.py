"""Cost of a compiled step per chip: memory, FLOPs, memory traffic, and communication between chips."""

import math
import re
from dataclasses import dataclass
from typing import Any

from prefix_jax.parallel.program import Computations, Instruction, is_kernel, kernel_flops, product_flops, read, walk
from prefix_jax.planning.topologies import Chip

# HBM has no memory space annotation; VMEM and other memories on the core do: S(1) and so on.
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CHANNEL = re.compile(r"channel_id=(\d+)")
_GROUPS = re.compile(r"replica_groups=(?:\[(\d+),(\d+)\]|\{\{([\d,]*)\})")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))? \{([^}]*)\}")
_CALLS = re.compile(r"calls=%?([\w.\-]+)")
_BITS = {"pred": 8, "s4": 4, "u4": 4}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# Operations that name or rearrange arrays without touching their bytes, or that wait.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "after-all",
    "copy-done", "slice-done", "async-done", "async-update", "custom-call", "partition-id", "replica-id", "iota",
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Cost of one step on one chip. Memory in bytes: resident before the step, and the peak.

    `compiler_seconds` is the compiler's own estimate of compute and memory time, without links; 0: not available. It
    does not cover kernels, which are added at the matrix units' peak rate: `kernel_flops` of the `flops`.
    `collectives`: count and result bytes by kind.
    """

    arguments: int
    peak: int
    flops: int
    kernel_flops: int
    bytes_moved: int
    bytes_sent: float
    collectives: dict[str, dict[str, float]]
    compiler_seconds: float

    def seconds(self, chip: Chip) -> dict[str, float]:
        """Returns the time that each resource alone would take, and the compiler's estimate if available.

        Collectives are assumed to use a bidirectional ring along one axis of the torus.
        """
        found = {
            "compute": self.flops / chip.flops,
            "memory": self.bytes_moved / chip.bandwidth,
            "links": self.bytes_sent / (chip.links / chip.axes),
        }
        return {**found, "compiler": self.compiler_seconds} if self.compiler_seconds else found


def cost_of(compiled: Any, chip: Chip) -> Cost:
    """Returns the cost of a compiled step."""
    memory = compiled.memory_analysis()
    text = compiled.as_text()
    computations, entry = read(text)
    kinds, sent = _collectives(computations, entry)
    kernels = kernel_flops(computations, entry)
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Cost(
        arguments=memory.argument_size_in_bytes,
        peak=kept + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes,
        flops=product_flops(text),
        kernel_flops=kernels,
        bytes_moved=_bytes_moved(computations, entry),
        bytes_sent=sent,
        collectives=kinds,
        compiler_seconds=_cycles(computations, entry) / chip.clock + kernels / chip.flops,
    )


def _cycles(computations: Computations, entry: str) -> int:
    return sum(
        times * int(found[1])
        for times, name in walk(computations, entry, fusions=False)
        for instruction in computations[name]
        if (found := _CYCLES.search(instruction.rest))
    )


def _collectives(computations: Computations, entry: str) -> tuple[dict[str, dict[str, float]], float]:
    """Returns the collectives by kind, and the bytes that a chip sends for them.

    An asynchronous collective spans several instructions with one channel and counts once.
    """
    seen: dict[str, tuple[str, int, float, float]] = {}
    for times, name in walk(computations, entry):
        for instruction in computations[name]:
            kind = instruction.operation.removesuffix("-start")
            if kind in COLLECTIVES:
                channel = found[1] if (found := _CHANNEL.search(instruction.rest)) else instruction.name
                sizes = [size for size, _ in _arrays(instruction.result)]
                # An asynchronous instruction also returns its operand and counters.
                size = float(max(sizes) if instruction.operation.endswith("-start") else sum(sizes))
                seen[channel] = (kind, times, size, size * _share(kind, _group(instruction)))
    kinds: dict[str, dict[str, float]] = {}
    for kind, times, size, _ in seen.values():
        total = kinds.setdefault(kind, {"count": 0, "bytes": 0.0})
        total["count"] += times
        total["bytes"] += times * size
    return dict(sorted(kinds.items())), sum(times * sent for _, times, _, sent in seen.values())


def _group(instruction: Instruction) -> int:
    """Returns the number of devices per group of a collective, given as groups or as mesh axes.

    Raises:
      ValueError: the groups are in an unknown format.
    """
    if instruction.operation.startswith("collective-permute"):
        return 2
    if found := _GROUPS.search(instruction.rest):
        return int(found[2]) if found[2] else len(found[3].split(","))
    if found := _MESH_GROUPS.search(instruction.rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(part or sizes[name]) for name, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found[2]))
    raise ValueError(f"the groups of {instruction.name} are in no form that is known: {instruction.rest[:200]}")


def _share(kind: str, group: int) -> float:
    """Returns the bytes sent by a chip of a ring over the bytes of the result."""
    ring = (group - 1) / group
    return {
        "all-gather": ring,
        "all-reduce": 2 * ring,
        "reduce-scatter": group - 1,
        "all-to-all": ring,
        "collective-permute": 1.0,
    }[kind]


def _bytes_moved(computations: Computations, entry: str) -> int:
    """Returns the HBM traffic in bytes: each instruction's operands and results that are in HBM.

    An array that is only sliced counts as its slices, and one updated in place as the update.
    """
    total = 0
    for times, name in walk(computations, entry, fusions=False):
        results = {i.name: i.result for i in computations[name]}
        total += times * sum(_touched(i, results, computations) for i in computations[name])
    return total


def _touched(instruction: Instruction, results: dict[str, str], computations: Computations) -> int:
    kind = instruction.operation
    if (
        (kind in _FREE and not is_kernel(instruction))
        or kind.endswith("-done")
        or kind.removesuffix("-start") in COLLECTIVES
    ):
        return 0
    operands = [results.get(name, "") for name in instruction.operands]
    if kind == "copy-start":  # (to, from, ...)
        return _in_memory(instruction.result)
    if kind in ("slice-start", "dynamic-slice", "slice", "gather"):  # ((from), to, ...) or to
        size, local = _arrays(instruction.result)[1 if kind == "slice-start" else 0]
        return size if local else 2 * size
    if kind == "dynamic-update-slice":
        return 2 * _in_memory(operands[1])
    if kind == "fusion" and (called := _CALLS.search(instruction.rest)):
        return _fused(computations, called[1], instruction, operands)
    return _in_memory(instruction.result) + sum(map(_in_memory, operands))


def _fused(computations: Computations, called: str, fusion: Instruction, operands: list[str]) -> int:
    """Returns the bytes that a fusion writes (only the update, for in-place results) and reads."""
    inside = computations[called]
    made = {i.name: i for i in inside}
    root = inside[-1]
    total = 0
    for (size, local), name in zip(
        _arrays(fusion.result), root.operands if root.operation == "tuple" else [root.name], strict=False
    ):
        maker = made.get(name, root)
        while maker.operation in ("bitcast", "copy") and maker.operands[0] in made:
            maker = made[maker.operands[0]]
        if maker.operation == "dynamic-update-slice":
            size = _size(made[maker.operands[1]].result)
        total += 0 if local or maker.operation == "parameter" else size
    parameters = _parameters(inside)
    for place, operand in enumerate(operands):
        whole = _in_memory(operand)
        if whole and place in parameters:
            total += min(whole, _read(computations, called, parameters[place], whole))
    return total


def _read(computations: Computations, called: str, name: str, whole: int) -> int:
    """Returns the bytes that a fused computation reads of one value, through views and inner fusions."""
    total = 0
    for user in computations[called]:
        if name not in user.operands:
            continue
        kind = user.operation
        if kind == "bitcast":
            total += _read(computations, called, user.name, whole)
        elif kind in ("dynamic-slice", "slice", "gather"):
            total += _size(user.result)
        elif kind == "fusion" and (inner := _CALLS.search(user.rest)):
            parameter = _parameters(computations[inner[1]])[user.operands.index(name)]
            total += _read(computations, inner[1], parameter, whole)
        elif kind != "tuple" and not (kind == "dynamic-update-slice" and user.operands[0] == name):
            return whole
    return total


def _parameters(inside: list[Instruction]) -> dict[int, str]:
    """Returns the names of a computation's parameters by index."""
    return {i.number: i.name for i in inside if i.operation == "parameter"}


def _in_memory(shape: str) -> int:
    """Returns the bytes of a result's arrays in HBM."""
    return sum(size for size, space in _arrays(shape) if not space)


def _size(shape: str) -> int:
    return sum(size for size, _ in _arrays(shape))


def _arrays(shape: str) -> list[tuple[int, bool]]:
    """Returns the bytes of each array of a result, and whether it is in memory on the core."""
    found = []
    for dtype, dims, layout in _ARRAY.findall(shape):
        digits = re.search(r"(\d+)", dtype)
        bits = _BITS.get(dtype, int(digits[1]) if digits else 0)
        count = math.prod(int(d) for d in dims.split(",") if d)
        found.append((count * bits // 8, "S(" in layout))
    return found
