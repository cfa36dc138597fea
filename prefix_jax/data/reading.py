"""Summary of the records read for a split, printed as one line."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prefix_jax.data.records import Record

_NAMED = 12  # maximum files named in a line; beyond that, the first ones and the last


@dataclass
class Notes:
    """Notes of a reader beside its records.

    Attributes:
      left_out: number of skipped rows by reason.
      warnings: possible problems, one sentence each.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reading:
    """Records of a split, one per text, and their origin.

    Attributes:
      records: records in file order.
      split: train, validation or test.
      files: files read; empty if `name` names a set that is not in files.
      passed_over: files of this split skipped in favour of those read.
      drawn: which of the training records these are, in words; "": all.
      whole: number of records of all files if these name no split and are divided; 0 otherwise.
    """

    records: list[Record]
    split: str
    files: tuple[Path, ...] = ()
    name: str = ""
    passed_over: tuple[Path, ...] = ()
    whole: int = 0
    drawn: str = ""
    notes: Notes = field(default_factory=Notes)

    @property
    def duplicates(self) -> int:
        """The number of records whose source and target an earlier one has."""
        return len(self.records) - len({(record.source, record.target) for record in self.records})

    def sentence(self) -> str:
        """Describes the records in one line: `train: 24 records of 3 files in DIR (a, b, c)`."""
        count, inputs = len(self.records), len({record.input_id for record in self.records})
        text = f"{self.split}: {_counted(count, 'record')}"
        text += f" ({_counted(inputs, 'input')})" if inputs != count else ""
        text += f" of {_files(self.files) if self.files else self.name}"
        if self.passed_over:
            text += f", not of {', '.join(path.name for path in self.passed_over)} beside"
        if self.whole:
            names = "which names" if len(self.files) == 1 else "which name"
            shares = "90/10 into training and test" if self.drawn else "80/10/10"
            text += f", {names} no split: {self.whole:,} records divided {shares} by a hash of the source"
        if self.drawn:
            text += f", {self.drawn}"
        if self.duplicates:
            text += f"; {_counted(self.duplicates, 'duplicate')} kept"
        for reason, rows in self.notes.left_out.items():
            text += f"; {rows:,} left out: {reason}"
        return text


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _files(files: Sequence[Path]) -> str:
    if len(files) == 1:
        return f"1 file ({files[0]})"
    folders = {path.parent for path in files}
    names = [path.name if len(folders) == 1 else str(path) for path in files]
    if len(names) > _NAMED:
        names = [*names[: _NAMED - 1], "...", names[-1]]
    where = f" in {folders.pop()}" if len(folders) == 1 else ""
    return f"{len(files):,} files{where} ({', '.join(names)})"
