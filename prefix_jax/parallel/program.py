"""Reads a compiled program's text (HLO): its matrix products, with the trip counts of the loops around them applied.

XLA's own cost analysis counts the body of a loop once, however often it runs.
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


class Operand(NamedTuple):
    """An array's type as HLO names it, and its shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Product:
    """One `dot`: its operands, its result, and the dimensions that are contracted and shared."""

    left: Operand
    right: Operand
    result: Operand
    contracting: tuple[tuple[int, ...], tuple[int, ...]]
    batch: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def flops(self) -> int:
        """Two for each multiplication and addition."""
        return 2 * math.prod(self.result.shape) * math.prod(self.left.shape[d] for d in self.contracting[0])


class _Instruction(NamedTuple):
    name: str
    result: str
    operation: str
    rest: str


def products(text: str) -> Counter[Product]:
    """Returns each matrix product of a program and how often it runs in one call.

    Raises:
      ValueError: a loop around a product does not say how often it runs.
    """
    computations, entry = _read(text)
    found: Counter[Product] = Counter()
    for times, computation in _walk(computations, entry, 1):
        for product in _products_of(computations[computation]):
            found[product] += times
    return found


def product_flops(text: str) -> int:
    """Returns the floating-point operations of all matrix products in one call of a program."""
    return sum(product.flops * times for product, times in products(text).items())


def _read(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = head[1]
            computations[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif current and (found := _INSTRUCTION.match(line)):
            computations[current].append(_Instruction(*found.groups()))
    return computations, entry


def _walk(computations: dict, name: str, times: int) -> Iterator[tuple[int, str]]:
    yield times, name
    for instruction in computations[name]:
        called = [c for c in _CALLED.findall(instruction.rest) if c in computations]
        inner = times
        if instruction.operation == "while":
            trips = _TRIPS.search(instruction.rest)
            if trips:
                inner = times * int(trips[1])
            elif any(_has_product(computations, c) for c in called):
                raise ValueError(f"the loop {instruction.name} does not say how often it runs")
        for each in called:
            yield from _walk(computations, each, inner)


def _has_product(computations: dict, name: str) -> bool:
    return any(_products_of(computations[inner]) for _, inner in _walk(computations, name, 1))


def _products_of(instructions: list[_Instruction]) -> list[Product]:
    shapes = {i.name: i.result for i in instructions}
    return [_product(i, shapes) for i in instructions if i.operation == "dot"]


def _product(dot: _Instruction, shapes: dict[str, str]) -> Product:
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
