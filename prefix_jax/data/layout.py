"""Which files are a split: those of a folder, one file, or those that a pattern matches.

Files that are numbered as parts of one set are all read, in the order of their numbers. What can be read in more ways
than one is refused: a file that is left out unsaid is worse than a question.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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

# What `datasets` keeps beside the files of a split.
_ABOUT = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
Prefer = Callable[[Sequence[Path]], Sequence[Path]]


@dataclass(frozen=True)
class Found:
    """The files of a split.

    Attributes:
      files: in the order in which they are read.
      passed_over: files that name the split too, which the task's rule leaves aside.
      unnamed: whether they name no split, so that they hold all three.
    """

    files: tuple[Path, ...]
    passed_over: tuple[Path, ...] = ()
    unnamed: bool = False


@dataclass(frozen=True)
class Search:
    """What is looked for.

    Attributes:
      split: train, validation or test.
      suffixes: of the files that are read.
      prefer: which of the files that name the split a task reads, where a published set has it in several forms.
      task: its name, for what is said.
    """

    split: str
    suffixes: tuple[str, ...]
    prefer: Prefer = field(default=lambda files: files)
    task: str = ""


def find(path: Path, search: Search) -> Found:
    """Returns the split's files at a path: a folder, one file, or a pattern such as `dir/train-*.parquet`.

    A file that names another split than the one looked for says which set is meant: the split is then looked for in the
    same folder, among names that begin as the file's does.

    Raises:
      UserError: there are none, one is missing, or which are meant is not clear.
    """
    if path.is_dir():
        found = in_folder(path, search)
        if found is None:
            raise UserError(_absent(path, search))
        return found
    if path.exists():
        return _of_file(path, search)
    if any(mark in str(path) for mark in "*?["):
        return _of_pattern(path, search)
    raise UserError(f"{path} does not exist; set --config.data.path to a file or directory of task {search.task}.")


def in_folder(folder: Path, search: Search, like: Path | None = None) -> Found | None:
    """Returns the split's files in a folder; None where there are none.

    They are files of the folder (or of `data/` in it, as hub repositories have) that name the split, or all files of a
    folder that is called as the split.

    Args:
      folder: where to look.
      search: what is looked for.
      like: a file of another split, for whose set the split is looked for.

    Raises:
      UserError: one is missing, or which are meant is not clear.
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
    """Returns the splits that a file's name names."""
    words = re.split(r"[^a-z]+", re.sub(r"(train|dev|test)set", r"\1", stem(path)))
    return [split for split in SPLITS if any(word in words for word in WORDS[split])]


def _bases(folder: Path) -> list[Path]:
    return [folder, folder / "data"] if (folder / "data").is_dir() else [folder]


def _tables(folder: Path, search: Search, hidden: Iterable[str] = ()) -> list[Path]:
    """Returns a folder's files that can be read, without those whose names begin with a dot."""
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
    """Returns the split that a folder is called as."""
    return next((split for split in SPLITS if folder.name.lower() in WORDS[split]), None)


def _check_inside(folder: Path, files: Sequence[Path], search: Search) -> None:
    for path in files:
        if [split for split in named(path) if split != search.split]:
            raise UserError(
                f"{path} names another split than the folder {folder.name} it is in; rename one of the two, or give a "
                "folder with a file for each split."
            )
    deeper = [path for sub in folder.iterdir() if sub.is_dir() for path in _tables(sub, search)]
    if files and deeper:
        raise UserError(
            f"{folder} has files of the {search.split} split and more in folders ({_names(deeper, folder)}); choose "
            f"them by a pattern, as --config.data.path='{folder}/**/*{kind(deeper[0])}'."
        )


def _most_alike(files: Sequence[Path], like: Path) -> list[Path]:
    """Returns the files of the same format as `like`, if any; of these the ones named alike, if any."""
    found = list(files)
    for same in (lambda path: kind(path) == kind(like), lambda path: _around(path) == _around(like)):
        found = [path for path in found if same(path)] or found
    return found


def _around(path: Path) -> tuple[str, str]:
    """Returns what stands before and after the split in a file's name, without the number of a part."""
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
    files = in_number_order(p for p in root.glob(pattern) if p.is_file() and not p.name.startswith("."))
    if not files:
        raise UserError(f"{path} matches no file; set --config.data.path to files of task {search.task}.")
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
    """Returns the nearest folder above a file, up to `root`, that is called as a split; else its own folder."""
    folders = [path.parent, *path.parent.parents]
    return next((f for f in folders if f.is_relative_to(root) and _folder_of(f)), path.parent)


def _divided(path: Path) -> tuple[Path, str]:
    """Returns the folder that is there, and the pattern below it: a folder's own brackets are not a pattern."""
    root = path
    while not root.is_dir() and root != root.parent:
        root = root.parent
    return root, str(path.relative_to(root))


def _in_order(files: Sequence[Path], folder: Path, search: Search, inside: bool) -> list[Path]:
    """Returns the files of one set by their numbers; `inside` a folder of the split, any names are one set."""
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
    """Raises UserError where a part is missing or there twice; a pattern may leave out what it does not match."""
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
        f"{path} names {len(splits)} splits ({', '.join(splits)}), so that it is not clear which it holds; name it "
        "after one, or after none to have it divided."
    )


def _names(files: Sequence[Path], folder: Path) -> str:
    shown = [str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path) for path in files]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8:,} more" if len(shown) > 8 else "")


def _absent(folder: Path, search: Search) -> str:
    """Returns the sentence for a folder without the split: what would be one, and what comes near."""
    kinds = ", ".join(f"{WORDS[search.split][0]}{suffix}" for suffix in search.suffixes)
    near = [p for p in sorted(itertools.islice(folder.rglob("*"), 2_000)) if search.split in named(p) and p.is_file()]
    unread = [p for p in near if kind(p) not in search.suffixes]
    deeper = sorted({p.parent for p in near if kind(p) in search.suffixes})
    hint = ""
    if deeper:
        hint = f" ({_names(deeper, folder)} has: set --config.data.path={deeper[0]})"
    elif unread:
        hint = f" ({_names(unread[:3], folder)} cannot be read: unpack or convert it)"
    elif _folder_of(folder):
        hint = f" (a folder called as a split is found by the one that holds it: --config.data.path={folder.parent})"
    return (
        f"{folder} has no {search.split} file of task {search.task}{hint}; give a directory that holds {kinds} or the "
        "like."
    )
