"""Discovery of the files of a split: from a folder, one file, or a pattern.

Numbered parts of one set are all read, in numeric order. Ambiguous layouts are rejected: silently skipping a file would
be worse than an error.
"""

import itertools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prefix_jax import disk
from prefix_jax.data.parts import (
    SPLITS,
    WORD,
    WORDS,
    Part,
    absent_numbers,
    editions,
    groups,
    in_number_order,
    name_of,
    part_of,
    side_by_side,
)
from prefix_jax.data.text_files import kind, stem
from prefix_jax.errors import UserError

# Metadata that `datasets` stores beside the files of a split.
_ABOUT = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
Prefer = Callable[[Sequence[Path]], Sequence[Path]]


@dataclass(frozen=True)
class Found:
    """Files of a split.

    Attributes:
      files: files in reading order.
      passed_over: files that also name the split but are skipped by the task's preference.
      unnamed: whether the files name no split and so contain all three.
    """

    files: tuple[Path, ...]
    passed_over: tuple[Path, ...] = ()
    unnamed: bool = False


@dataclass(frozen=True)
class Search:
    """Search criteria.

    Attributes:
      split: train, validation or test.
      suffixes: suffixes of readable files.
      prefer: the task's choice among files that name the split, for sets published in several formats.
      task: task name, for messages.
    """

    split: str
    suffixes: tuple[str, ...]
    prefer: Prefer = field(default=lambda files: files)
    task: str = ""


def find(path: Path, search: Search) -> Found:
    """Returns the split's files at a path: a folder, one file, a pattern such as `dir/train-*.parquet`, or several
    files and patterns with commas between them.

    A file that names a different split identifies the set: the wanted split is then searched for in the same folder,
    among names with the same beginning.

    Raises:
      UserError: no file is found, a part is missing, or the choice is ambiguous.
    """
    if path.is_dir():
        found = in_folder(path, search)
        if found is None:
            raise UserError(_absent(path, search))
        return found
    if path.exists():
        return _of_file(path, search)
    if "," in str(path):
        return _of_several(path, search)
    if any(mark in str(path) for mark in "*?["):
        return _of_pattern(path, search)
    raise UserError(f"{path} does not exist; set --config.data.path to a file or directory of task {search.task}.")


def in_folder(folder: Path, search: Search, like: Path | None = None) -> Found | None:
    """Returns the split's files in a folder; None if there are none.

    These are files in the folder (or its `data/`, as in hub repositories) that name the split, or all files of a folder
    named after the split.

    Args:
      folder: folder to search.
      search: search criteria.
      like: a file of another split of the wanted set.

    Raises:
      UserError: a part is missing, or the choice is ambiguous.
    """
    places = [[path for path in _tables(base, search) if search.split in named(path)] for base in _bases(folder)]
    beside: list[Path] = []
    if like is not None:
        places = [[path for path in files if _around(path)[0] == _around(like)[0]] for files in places]
        beside = [path for files in places for path in files]
        places = [_most_alike(files, like) for files in places]
    folders = [
        sub
        for base in _bases(folder)
        for sub in sorted(base.iterdir())
        if _folder_of(sub) == search.split and sub.is_dir()
    ]
    insides = [(sub, _tables(sub, search, hidden=_ABOUT)) for sub in folders]
    everything = [files for files in [*places, *(files for _, files in insides)] if files]
    if not everything:
        return None
    if len(everything) > 1:
        raise _unclear([path for files in everything for path in files], folder, search)
    for sub, files in insides:
        _check_inside(sub, files, search)
    (files,) = everything
    preferred = list(search.prefer(files))
    rest = tuple(path for path in beside or files if path not in preferred)
    inside = any(files is found for _, found in insides)
    return Found(tuple(_in_order(preferred, preferred[0].parent, search, inside)), rest)


def named(path: Path) -> list[str]:
    """Returns the splits named in a file name."""
    words = re.split(r"[^a-z]+", re.sub(r"(train|dev|test)set", r"\1", stem(path)))
    return [split for split in SPLITS if any(word in words for word in WORDS[split])]


def _bases(folder: Path) -> list[Path]:
    return [folder, folder / "data"] if (folder / "data").is_dir() else [folder]


def _tables(folder: Path, search: Search, hidden: Iterable[str] = ()) -> list[Path]:
    """Returns the readable files of a folder, without hidden ones."""
    found = [
        path
        for path in folder.iterdir()
        if kind(path) in search.suffixes
        and not path.name.startswith(".")
        and path.name not in hidden
        and path.is_file()
    ]
    return in_number_order(found)


def _folder_of(folder: Path) -> str | None:
    """Returns the split that a folder is named after."""
    return next((split for split in SPLITS if folder.name.lower() in WORDS[split]), None)


def _check_inside(folder: Path, files: Sequence[Path], search: Search) -> None:
    for path in files:
        if [split for split in named(path) if split != search.split]:
            raise UserError(
                f"{path} names a different split than its folder {folder.name}; rename one of the two, or give a "
                "folder with a file for each split."
            )
    deeper = [path for sub in folder.iterdir() if sub.is_dir() for path in _tables(sub, search)]
    if files and deeper:
        raise UserError(
            f"{folder} has files of the {search.split} split and more in folders ({_names(deeper, folder)}); choose "
            f"them by a pattern, as --config.data.path='{folder}/**/*{kind(deeper[0])}'."
        )


def _most_alike(files: Sequence[Path], like: Path) -> list[Path]:
    """Returns files in the format of `like`, if any; among these, similarly named ones, if any."""
    found = list(files)
    for same in (lambda path: kind(path) == kind(like), lambda path: _around(path) == _around(like)):
        found = [path for path in found if same(path)] or found
    return found


def _around(path: Path) -> tuple[str, str]:
    """Returns the text before and after the split in a file name, without part numbers."""
    key = part_of(path)[0]
    found = re.search(rf"(?<![a-z])(?:{WORD})(?:set)?(?![a-z])", key)
    return (key[: found.start()], key[found.end() :]) if found else (key, "")


def _of_file(path: Path, search: Search) -> Found:
    splits = named(path)
    if len(splits) > 1:
        raise _two_splits(path, splits)
    if not splits or splits == [search.split]:
        return Found((path,), unnamed=not splits)
    return _of_other_split(path, path.parent, splits[0], search)


def _of_other_split(path: Path, folder: Path, split: str, search: Search) -> Found:
    found = in_folder(folder, search, like=path)
    if found is None:
        raise UserError(
            f"{path} holds the {split} split, not {search.split}, and {folder} has no file for that whose name begins "
            "alike; give a directory with a file for each split."
        )
    return found


def _of_pattern(path: Path, search: Search) -> Found:
    root, pattern = _divided(path)
    return _of_files(_matching(path, search), path, root, search, pattern)


def _matching(path: Path, search: Search) -> list[Path]:
    """Returns the files that a pattern matches; UserError if there are none."""
    root, pattern = _divided(path)
    files = in_number_order(p for p in root.glob(pattern) if p.is_file() and not p.name.startswith("."))
    if not files:
        raise UserError(f"{path} matches no file; set --config.data.path to files of task {search.task}.")
    return files


def _of_several(path: Path, search: Search) -> Found:
    """Returns the split's files among several files and patterns with commas between them."""
    files: list[Path] = []
    for text in str(path).split(","):
        one = Path(disk.expanded(text.strip()))
        if one.is_dir():
            raise UserError(
                f"{one} is a directory, in a list of files ({path}); write a pattern, such as {one}/*.jsonl"
            )
        if not one.exists() and not any(mark in str(one) for mark in "*?["):
            raise UserError(f"{one} does not exist; --config.data.path names it in a list of files.")
        files += [one] if one.exists() else _matching(one, search)
    root = Path(os.path.commonpath([file.absolute().parent for file in files]))
    # No part that a pattern would match is missing: the files are those that the list names.
    return _of_files(list(dict.fromkeys(files)), path, root, search, "nothing")


def _of_files(files: list[Path], path: Path, root: Path, search: Search, pattern: str) -> Found:
    if other := next((p for p in files if kind(p) not in search.suffixes), None):
        raise UserError(f"{path} matches {other}, which is not a table of task {search.task}; narrow the pattern.")
    above = {p: _folder_above(p, root) for p in files}
    splits = {p: named(p) or [split for split in [_folder_of(above[p])] if split] for p in files}
    if two := next((p for p in files if len(splits[p]) > 1), None):
        raise _two_splits(two, splits[two])
    nameless = [p for p in files if not splits[p]]
    if nameless and len(nameless) < len(files):
        raise UserError(
            f"{path} matches files that name a split and others that name none ({_names(nameless, root)}); narrow the "
            "pattern."
        )
    if nameless:
        _check_parts(files, root, search, pattern)
        return Found(tuple(files), unnamed=True)
    chosen = [p for p in files if splits[p] == [search.split]]
    if not chosen:
        folder = files[0].parent if named(files[0]) else above[files[0]].parent
        return _of_other_split(files[0], folder, splits[files[0]][0], search)
    _check_parts(chosen, root, search, pattern)
    return Found(tuple(chosen))


def _folder_above(path: Path, root: Path) -> Path:
    """Returns the nearest parent folder, up to `root`, that is named after a split; otherwise the file's folder."""
    folders = [path.parent, *path.parent.parents]
    return next((f for f in folders if f.is_relative_to(root) and _folder_of(f)), path.parent)


def _divided(path: Path) -> tuple[Path, str]:
    """Splits a path into an existing folder and a pattern: brackets in existing folder names are literal."""
    root = path
    while not root.is_dir() and root != root.parent:
        root = root.parent
    return root, str(path.relative_to(root))


def _in_order(files: Sequence[Path], folder: Path, search: Search, inside: bool) -> list[Path]:
    """Returns the files of one set in numeric order; `inside` a folder of the split, any names form one set."""
    for path in files:
        if len(named(path)) > 1:
            raise _two_splits(path, named(path))
    if len({kind(path) for path in files}) > 1:
        raise _unclear(files, folder, search)
    found = groups(files)
    apart = len(found) > 1 or any(len(parts) > 1 and editions(parts) for parts in found.values())
    if apart and not (inside and side_by_side(files)):
        raise _unclear(files, folder, search)
    _check_parts(files, folder, search)
    numbered = [part for parts in found.values() for part in parts if part.number is not None]
    if len(found) == 1 and len(numbered) == len(files):
        return [part.path for part in sorted(numbered, key=lambda part: part.number or 0)]
    return in_number_order(files)


def _check_parts(files: Sequence[Path], folder: Path, search: Search, pattern: str = "") -> None:
    """Raises UserError if a part is missing or duplicated; a pattern may omit parts that it does not match."""
    for parts in groups(files).values():
        numbers = [part.number for part in parts if part.number is not None]
        if len(numbers) < len(parts):
            if len(parts) > 1:
                raise _unclear([part.path for part in parts], folder, search)
            continue
        if len(set(numbers)) < len(numbers):
            twice = [part.path for part in parts if numbers.count(part.number) > 1]  # type: ignore[arg-type]
            raise UserError(
                f"{folder} has a part of the {search.split} split twice ({_names(twice, folder)}); remove one of them."
            )
        try:
            missing = [name_of(parts[0], number) for number in absent_numbers(parts, bool(pattern))]
        except ValueError:
            raise _unclear([part.path for part in parts], folder, search) from None
        if pattern:
            missing = [name for name in missing if parts[0].path.with_name(name).match(pattern)]
        if missing:
            raise _incomplete(parts, missing, folder, search)


def _incomplete(parts: Sequence[Part], missing: Sequence[str], folder: Path, search: Search) -> UserError:
    names = ", ".join(missing[:5]) + (f" and {len(missing) - 5:,} more" if len(missing) > 5 else "")
    are = "is" if len(missing) == 1 else "are"
    return UserError(
        f"{folder} has {len(parts)} of the parts of the {search.split} split "
        f"({_names([part.path for part in parts], folder)}), and {names} {are} missing; add what is missing, or choose "
        "one file by --config.data.path."
    )


def _unclear(files: Sequence[Path], folder: Path, search: Search) -> UserError:
    return UserError(
        f"{folder} has {len(files)} files for the {search.split} split that are not numbered as parts of one "
        f"({_names(files, folder)}); choose by --config.data.path={files[0]}, or several by a pattern, as "
        f"--config.data.path='{folder}/*{kind(files[0])}'."
    )


def _two_splits(path: Path, splits: Sequence[str]) -> UserError:
    return UserError(
        f"{path} names {len(splits)} splits ({', '.join(splits)}), which is ambiguous; name it "
        "after one, or after none to have it divided."
    )


def _names(files: Sequence[Path], folder: Path) -> str:
    shown = [str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path) for path in files]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8:,} more" if len(shown) > 8 else "")


def _absent(folder: Path, search: Search) -> str:
    """Returns the error message for a folder without the split: accepted names and near misses."""
    kinds = ", ".join(f"{WORDS[search.split][0]}{suffix}" for suffix in search.suffixes)
    near = [p for p in sorted(itertools.islice(folder.rglob("*"), 2_000)) if search.split in named(p) and p.is_file()]
    unread = [p for p in near if kind(p) not in search.suffixes]
    deeper = sorted({p.parent for p in near if kind(p) in search.suffixes})
    hint = ""
    if search.split == "validation" and not near:
        hint = " (--config.data.validation_fraction=0.1 takes it from the training data)"
    if deeper:
        hint = f" ({_names(deeper, folder)} has: set --config.data.path={deeper[0]})"
    elif unread:
        hint = f" ({_names(unread[:3], folder)} cannot be read: unpack or convert it)"
    elif _folder_of(folder):
        hint = f" (for a folder named after a split, give its parent: --config.data.path={folder.parent})"
    return (
        f"{folder} has no {search.split} file of task {search.task}{hint}; give a directory that holds {kinds} or the "
        "like."
    )
