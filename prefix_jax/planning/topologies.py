"""TPU topologies and chip specifications; the only module that uses libtpu.

Sizes and rates are from Google: cloud.google.com/tpu/docs, the system architecture page of each version.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefix_jax import extras
from prefix_jax.errors import UserError, did_you_mean, first_line

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """Specification of one chip: bytes of HBM, bytes per second of HBM bandwidth, bfloat16 FLOPs per second, and bytes
    per second sent over all links. `axes` is the rank of its torus; a pod has `most` chips.
    """

    memory: float
    bandwidth: float
    flops: float
    links: float
    axes: int
    most: int
    # Clock rate of the cores: peak FLOPs over the matrix units' FLOPs per cycle.
    clock: float


CHIPS = {
    "v5e": Chip(16 * GIB, 819e9, 197e12, 200e9, 2, 256, 1.5e9),
    "v5p": Chip(95 * GIB, 2.765e12, 459e12, 600e9, 3, 8960, 1.75e9),
    "v6e": Chip(32 * GIB, 1.64e12, 918e12, 448e9, 2, 256, 1.75e9),
}
# libtpu detects its machine before it can compile for another.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    # Otherwise only one process per machine may load it; this allows concurrent compilation.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclass(frozen=True)
class Topology:
    """A named slice: `v5e:4x4` is 16 chips of v5e."""

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]


def parse(name: str) -> Topology:
    """Parses a topology such as `v5e:4x4`.

    Raises:
      UserError: the name is malformed, or the chip does not exist.
    """
    match = re.fullmatch(r"([\w]+):(\d+(?:x\d+)*)", name.strip())
    kind = match[1] if match else name.partition(":")[0]
    if kind not in CHIPS:
        raise UserError(
            f'there is no TPU "{kind}"{did_you_mean(kind, tuple(CHIPS))}; a topology is a chip and a shape: v5e:4x4'
        )
    if not match:
        raise UserError(f'"{name}" is not a topology; name a chip and a shape, such as {kind}:{_example(kind)}')
    shape = tuple(int(size) for size in match[2].split("x"))
    if len(shape) != CHIPS[kind].axes or not all(shape):
        raise UserError(
            f'"{name}" is not a topology of {kind}: its shape has {CHIPS[kind].axes} axes, as {_example(kind)}'
        )
    found = Topology(name.strip(), kind, shape)
    if found.chips > CHIPS[kind].most:
        raise UserError(f'"{name}" has {found.chips} chips, and a pod of {kind} has {CHIPS[kind].most}')
    return found


def _example(kind: str) -> str:
    return "x".join(["4"] * CHIPS[kind].axes)


def prepare_environment() -> None:
    """Lets libtpu start on a machine without a TPU; must be called before JAX is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def devices(topology: Topology) -> Sequence[Any]:
    """Returns the topology's devices, which can be compiled for but cannot run programs.

    Raises:
      UserError: libtpu is not installed, or does not know the topology.
    """
    extras.require("libtpu", "plan asks the TPU's compiler, without a TPU, and")
    from jax.experimental import topologies

    options = {"chips_per_host_bounds": (1, 1, 1)} if topology.chips == 1 else {}
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options).devices
    except Exception as error:  # libtpu's exception types are not public
        raise UserError(
            f'the TPU\'s compiler does not know the topology "{topology.name}": {first_line(error)}'
        ) from error
