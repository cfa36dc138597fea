"""Detection of numbered parts of one data set from file names."""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefix_jax.data.text_files import stem

SPLITS = ("train", "validation", "test")
# Names of splits in file names.
WORDS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}

WORD = "|".join(word for words in WORDS.values() for word in words)
# train-00000-of-00003, "train (1 of 3)", with the hash that `datasets` once added.
_OF_MANY = re.compile(r"(.*?)[\W_]*(\d+)[\W_]*of[\W_]*(\d+)(?!\d)[)\]]?(?:-[0-9a-f]{16})?(.*)")
# part-00000-2f0c...-c000, as Spark writes them.
_OF_SPARK = re.compile(r"(part)-(\d+)()(-[0-9a-f]{8}-[0-9a-f-]{27}.*)")
_NUMBERED = re.compile(r"(.*?)[-_. ]*(?:(?:part|shard|chunk|file)[-_. ]*)?\(?(\d+)()\)?()")
_ENDS_IN_SPLIT = re.compile(rf"(?:.*[^a-z])?(?:{WORD}|(?:train|dev|test)set)")
_MOST = 1_000  # maximum number of missing parts that are counted


@dataclass(frozen=True)
class Part:
    """A file with its part number and the total number of parts, where its name states them."""

    path: Path
    number: int | None
    total: int | None
    place: tuple[int, int]  # of the number in the name


def part_of(path: Path) -> tuple[str, Part]:
    """Returns the common name of the parts of a set, and a file's part number."""
    name = stem(path)
    found = _OF_MANY.fullmatch(name) or _OF_SPARK.fullmatch(name)
    if found is None:
        found = _NUMBERED.fullmatch(name)
        if found and found[1] and not _ENDS_IN_SPLIT.fullmatch(found[1]) and found[1] not in ("part", "shard", "data"):
            found = None  # a version, a year, a seed
    if found is None:
        return name, Part(path, None, None, (0, 0))
    total = int(found[3]) if found[3] else None
    return found[1] + (f"-of-{total}" if total else "") + found[4], Part(path, int(found[2]), total, found.span(2))


def groups(files: Sequence[Path]) -> dict[tuple[str, bool], list[Part]]:
    """Groups files by common name, separating numbered from unnumbered ones."""
    found: dict[tuple[str, bool], list[Part]] = {}
    for path in files:
        key, part = part_of(path)
        found.setdefault((key, part.number is None), []).append(part)
    return found


def editions(parts: Sequence[Part]) -> bool:
    """Returns whether numbers are years, sizes or similar: none is 0 or 1, and none is zero-padded."""
    numbers = [part.number for part in parts if part.number is not None]
    return parts[0].total is None and min(numbers, default=0) > 1 and not _digits(parts[0]).startswith("0")


def absent_numbers(parts: Sequence[Part], chosen: bool) -> list[int]:
    """Returns the first missing part numbers; `chosen`: the files were selected by a pattern.

    Raises:
      ValueError: there are more parts than their names state.
    """
    numbers = {part.number for part in parts if part.number is not None}
    total, digits = parts[0].total, _digits(parts[0])
    padded = digits.startswith("0") and len(digits) > 1
    first, last = min(1, *numbers), max(numbers)
    if total is not None:
        first = 1 if total in numbers and 0 not in numbers else 0
        if last > first + total - 1:
            raise ValueError(f"{last} of {total}")
        last = first + total - 1
    # A pattern selects files whose names state no total. Numbers from 2 on may be years or editions unless they are
    # zero-padded.
    elif chosen or (min(numbers) > 1 and not padded):
        return []
    return list(itertools.islice((n for n in range(first, last + 1) if n not in numbers), _MOST))


def _digits(part: Part) -> str:
    return stem(part.path)[slice(*part.place)]


def name_of(part: Part, number: int) -> str:
    """Returns a part's file name with a different number."""
    start, end = part.place
    name = part.path.name
    return name[:start] + str(number).zfill(len(_digits(part)) if _digits(part).startswith("0") else 1) + name[end:]


def side_by_side(files: Sequence[Path]) -> bool:
    """Returns whether no file name extends another, as that of a copy or another edition would."""
    stems = {stem(path) for path in files}
    return not any(name[:cut] in stems and not name[cut].isdecimal() for name in stems for cut in range(1, len(name)))


def in_number_order(files: Iterable[Path]) -> list[Path]:
    """Returns files sorted by name in natural order of numbers."""
    key = lambda path: [(int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", str(path).lower())]
    return sorted(files, key=key)
