"""`python -m experiments.news.sections --rows DIRECTORY --urls FILE --out DIRECTORY`: XSUM with each article's section.

Reads the rows of every split (`id`, `document`, `summary`) and a file of articles' addresses (`id`, `url`), and writes
a file for each split whose rows have the section as their `category`. Articles without an address are left out.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefix_jax import cli
from prefix_jax.data.files import ROW_SUFFIXES, read_rows
from prefix_jax.data.layout import Search, find
from prefix_jax.disk import write_text

SPLITS = ("train", "validation", "test")
_SECTION = re.compile(r"://[^/]*/(?:sport\b(?P<sport>)|news/(?P<news>[a-z]+))")


def section(url: str) -> str | None:
    """Returns a BBC address's section: "sport", or of the news the first word, such as "world" of `world-europe-1`."""
    found = _SECTION.search(url)
    if found is None:
        return None
    return "sport" if found["news"] is None else found["news"]


def addresses(path: Path) -> dict[str, str]:
    """Returns the addresses of a file with columns `id` and `url`, by id."""
    return {str(row["id"]): str(row["url"]) for _, row in read_rows(path)}


def write_split(rows: Path | Sequence[Path], urls: Mapping[str, str], out: Path) -> dict[str, int]:
    """Writes the rows whose section is known, and returns how many each section has."""
    counts: dict[str, int] = {}
    lines = []
    for _, row in (row for path in ([rows] if isinstance(rows, Path) else rows) for row in read_rows(path)):
        name = section(urls.get(str(row["id"]), ""))
        if name:
            counts[name] = counts.get(name, 0) + 1
            lines.append(json.dumps({**row, "category": name}, ensure_ascii=False) + "\n")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, "".join(lines))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("rows", "urls", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    urls = addresses(arguments.urls)
    for split in SPLITS:
        found = find(arguments.rows, Search(split, ROW_SUFFIXES, task="xsum")).files
        print(split, write_split(found, urls, arguments.out / f"{split}.jsonl"))


if __name__ == "__main__":
    with cli.user_errors():
        main()
