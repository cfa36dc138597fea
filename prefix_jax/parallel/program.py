"""Parser of compiled programs (HLO text): matrix products, multiplied by the trip counts of enclosing loops.

XLA's cost analysis counts a loop body once, regardless of its trip count. The TPU compiler writes matrix products as
convolutions, with batch dimensions as spatial ones. Kernels declare their own FLOPs.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_BODY = re.compile(r"body=%?([\w.\-]+)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_KERNEL = re.compile(r'custom_call_target="tpu_custom_call".*"cost_estimate":\{"flops":"(\d+)"')
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")


class Operand(NamedTuple):
    """An array's HLO type and shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Product:
    """A `dot`: its operands, its result, and its contracting and batch dimensions."""

    left: Operand
    right: Operand
    result: Operand
    contracting: tuple[tuple[int, ...], tuple[int, ...]]
    batch: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def flops(self) -> int:
        """Floating-point operations, two per multiply-add."""
        return 2 * math.prod(self.result.shape) * math.prod(self.left.shape[d] for d in self.contracting[0])


class Instruction(NamedTuple):
    """One line of a program; `rest` follows the operation's opening parenthesis."""

    name: str
    result: str
    operation: str
    rest: str

    @property
    def operands(self) -> list[str]:
        """Names of the operands."""
        return re.findall(r"%([\w.\-]+)", self.rest.split("), ")[0])

    @property
    def number(self) -> int:
        """Value of an integer constant, or index of a parameter."""
        return int(self.rest.split(")")[0])


Computations = dict[str, list[Instruction]]


def products(text: str) -> Counter[Product]:
    """Counts the executions of each matrix product in one call of a program.

    Raises:
      ValueError: a loop around a product has an unknown trip count.
    """
    computations, entry = read(text)
    found: Counter[Product] = Counter()
    for times, computation in walk(computations, entry):
        for product in _products_of(computations[computation]):
            found[product] += times
    return found


def product_flops(text: str) -> int:
    """Returns the FLOPs of all matrix products in one call of a program, including kernels."""
    computations, entry = read(text)
    return kernel_flops(computations, entry) + sum(
        times * (sum(p.flops for p in _products_of(inside)) + sum(_convolution_flops(inside)))
        for times, computation in walk(computations, entry)
        if (inside := computations[computation])
    )


def kernel_flops(computations: Computations, entry: str) -> int:
    """Returns the FLOPs declared by the kernels in one call of a program."""
    return sum(
        times * int(said[1])
        for times, name in walk(computations, entry, fusions=False)
        for instruction in computations[name]
        if (said := is_kernel(instruction))
    )


def is_kernel(instruction: Instruction) -> re.Match[str] | None:
    """Matches the FLOPs declared by a kernel."""
    return _KERNEL.search(instruction.rest) if instruction.operation == "custom-call" else None


def read(text: str) -> tuple[Computations, str]:
    """Returns a program's computations by name, and the name of its entry."""
    computations: Computations = {}
    entry, current = "", ""
    for line in text.split("\n"):
        if head := _COMPUTATION.match(line):
            current = head[1]
            computations[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif current and (found := _INSTRUCTION.match(line)):
            computations[current].append(Instruction(*found.groups()))
    return computations, entry


def walk(computations: Computations, name: str, times: int = 1, fusions: bool = True) -> Iterator[tuple[int, str]]:
    """Yields each computation reached by one call, with its number of executions.

    With `fusions=False`, only computations whose instructions run one by one.

    Raises:
      ValueError: a loop around a product has an unknown trip count.
    """
    yield times, name
    for instruction in computations[name]:
        if not fusions and instruction.operation not in ("while", "call", "conditional"):
            continue
        called = [c for c in _CALLED.findall(instruction.rest) if c in computations]
        inner = times
        if instruction.operation == "while":
            trips = _trips(computations, name, instruction)
            if trips is not None:
                inner = times * trips
            elif any(_has_product(computations, c) for c in called):
                raise ValueError(f"the loop {instruction.name} does not say how often it runs")
        for each in called:
            yield from walk(computations, each, inner, fusions)


def _trips(computations: Computations, name: str, loop: Instruction) -> int | None:
    """Returns a loop's trip count, as annotated or from its condition `counter < constant`."""
    if said := _TRIPS.search(loop.rest):
        return int(said[1])
    condition = computations.get(found[1] if (found := _CONDITION.search(loop.rest)) else "", [])
    if not condition or condition[-1].operation != "compare" or "direction=LT" not in condition[-1].rest:
        return None
    inside = {i.name: i for i in condition}
    counter, limit = (inside.get(operand) for operand in condition[-1].operands[:2])
    index = re.search(r"index=(\d+)", counter.rest) if counter and counter.operation == "get-tuple-element" else None
    if index is None or limit is None or limit.operation != "constant":
        return None
    around = {i.name: i for i in computations[name]}
    start: Instruction | None = around.get(loop.operands[0])
    start = around.get(start.operands[int(index[1])]) if start and start.operation == "tuple" else None
    while start and start.operation in ("copy", "bitcast"):
        start = around.get(start.operands[0])
    begin = start.number if start and start.operation == "constant" else 0
    body = computations[found[1]] if (found := _BODY.search(loop.rest)) else []
    return -(-(limit.number - begin) // _step(body, int(index[1])))


def _step(body: list[Instruction], index: int) -> int:
    """Returns the increment of a loop's counter, element `index` of its state; it exceeds 1 if unrolled."""
    inside = {i.name: i for i in body}
    at: Instruction | None = inside.get(body[-1].operands[index]) if body else None
    total = 0
    while at is not None and at.operation in ("add", "copy", "bitcast"):
        following = at.operands[0]
        if at.operation == "add":
            parts = [inside[name] for name in at.operands]
            constants = [part for part in parts if part.operation == "constant"]
            if len(constants) != 1:
                break
            total += constants[0].number
            following = next(part.name for part in parts if part.operation != "constant")
        at = inside.get(following)
    return total or 1


def _has_product(computations: Computations, name: str) -> bool:
    kinds = ("dot", "convolution")
    return any(i.operation in kinds for _, inner in walk(computations, name) for i in computations[inner])


def _convolution_flops(instructions: list[Instruction]) -> list[int]:
    shapes = {i.name: i.result for i in instructions}
    return [_flops_of(i, shapes) for i in instructions if i.operation == "convolution"]


def _flops_of(convolution: Instruction, shapes: dict[str, str]) -> int:
    """Counts the pairs of an output and a window element that hit a real input, not padding or dilation."""
    left, right = (_operand(shapes[name]).shape for name in convolution.operands[:2])
    result = _operand(convolution.result).shape
    labels = _LABELS.search(convolution.rest)
    assert labels, convolution
    lhs, rhs, out = labels.groups()
    window = dict(part.split("=") for part in found[1].split()) if (found := _WINDOW.search(convolution.rest)) else {}
    pairs = 1
    for axis in range(sum(label.isdigit() for label in lhs)):
        sizes = (left[lhs.index(str(axis))], right[rhs.index(str(axis))], result[out.index(str(axis))])
        pairs *= _meetings(sizes, {name: values.split("x")[axis] for name, values in window.items()})
    return 2 * result[out.index("b")] * result[out.index("f")] * right[rhs.index("i")] * pairs


def _meetings(sizes: tuple[int, int, int], window: dict[str, str]) -> int:
    """Counts the pairs (output, window element) along one spatial axis that hit a real input."""
    size, elements, outputs = sizes
    stride, low = int(window.get("stride", 1)), int(window.get("pad", "0_0").split("_")[0])
    spread, spacing = int(window.get("lhs_dilate", 1)), int(window.get("rhs_dilate", 1))
    count = 0
    for element in range(elements):
        offset = element * spacing - low
        places = range(offset, offset + outputs * stride, stride)
        count += sum(place % spread == 0 and 0 <= place // spread < size for place in places)
    return count


def _products_of(instructions: list[Instruction]) -> list[Product]:
    shapes = {i.name: i.result for i in instructions}
    return [_product(i, shapes) for i in instructions if i.operation == "dot"]


def _product(dot: Instruction, shapes: dict[str, str]) -> Product:
    names = [part.strip().split(" ")[-1].lstrip("%") for part in dot.rest.split(")")[0].split(", ")]
    left, right = (_operand(shapes[name]) for name in names[:2])

    def dims(kind: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return _dims(dot.rest, f"lhs_{kind}_dims"), _dims(dot.rest, f"rhs_{kind}_dims")

    return Product(left, right, _operand(dot.result), dims("contracting"), dims("batch"))


def _operand(text: str) -> Operand:
    found = _SHAPE.match(text)
    assert found, text
    return Operand(found[1], tuple(int(d) for d in found[2].split(",") if d))


def _dims(text: str, name: str) -> tuple[int, ...]:
    found = re.search(rf"{name}=\{{([\d,]*)\}}", text)
    return tuple(int(d) for d in found[1].split(",") if d) if found else ()
