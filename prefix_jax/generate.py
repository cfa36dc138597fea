"""`python -m prefix_jax.generate --workdir DIR --input TEXT` (or `--tuned DIR/tuned`; also `--input` several times,
`--input-file FILE`, or stdin)

Prints one line of text for each input: its label for tasks that have labels, which is the best of them by
log-likelihood. Inputs are read like the sources of the training data. A file has one a line, or is a table with the
columns of the training data (`.jsonl`, `.csv` ...), or with `--input-format=text` is one input.

With `--tuned a=DIR --tuned b=DIR`, the column `tuned` of a table says which one a row has: a name, two prefixes as
`a+b`, or nothing for the bare model; without that column, every input has a line for each name.
"""

import json
import re
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from absl import flags

from prefix_jax import cli, disk
from prefix_jax.errors import UserError

_LINE_END = re.compile(r"\r\n|\r|\n")


def define_flags() -> None:
    cli.define_path("workdir", None, "The run directory of a training run.")
    flags.DEFINE_multi_string(
        "tuned", None, "In place of --workdir a tuned/ folder, one of PEFT or a hub id; NAME=DIR for each of several."
    )
    flags.DEFINE_string("tuned_column", "tuned", "The column of a table that holds the names of several --tuned.")
    flags.DEFINE_multi_string("input", None, "A source text; may be given several times.")
    cli.define_path("input_file", None, "A file with one source a line, or a table of rows; - for stdin.")
    flags.DEFINE_enum(
        "input_format", None, ["lines", "text", "jsonl"],
        "What a file holds: a source a line, one source, or rows; by default rows where its name ends as a table's.",
    )  # fmt: skip
    flags.DEFINE_bool("json", False, "Print an object with source and output for each input.")
    flags.DEFINE_bool("bare", False, "Use the model without the prefix.")
    flags.DEFINE_bool("merge", False, "Merge LoRA's updates into the model's matrices: as fast as the bare model.")
    cli.define_overrides()
    cli.define_hosts()


def main(options: flags.FlagValues) -> None:
    folders = _folders(options.tuned or ())
    if options.workdir and folders:
        raise UserError("--workdir and --tuned are both given; give one of them")
    cli.required(workdir=options.workdir or folders)
    by_name = list(folders) not in ([], [""])
    _check_flags(options, by_name)
    sources = _sources(options.input, options.input_file, options.input_format or "")
    cli.enable_compile_cache()
    shown = {"workdir": str(options.workdir or folders), "bare": options.bare, "merge": options.merge}
    cli.join_hosts(options, {**shown, "sources": sha256(repr(sources).encode()).hexdigest()})
    from prefix_jax.parallel import distributed

    lines = _by_name(options, folders, sources) if by_name else _of_one(options, folders.get(""), sources)
    for line in lines if distributed.is_primary() else ():
        if options.json:
            print(json.dumps(line, ensure_ascii=False))
        else:
            parts = (" ".join(_LINE_END.split(line[key])) for key in ("tuned", "output") if key in line)
            print(cli.for_stdout("\t".join(parts)))
    sys.stdout.flush()


def _folders(given: Sequence[str]) -> dict[str, str]:
    """Returns folders by name; the name of a single one may be empty.

    Raises:
      UserError: several have no names, or one name is given twice.
    """
    pairs = [("", one) if len(given) == 1 and Path(one).exists() else _named(one) for one in given]
    names = [name for name, _ in pairs]
    if len(pairs) > 1 and "" in names:
        raise UserError(f"--tuned={given[names.index('')]} has no name; give each one, as --tuned formal=DIR")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f'two --tuned have the name "{twice}"; rename one')
    return dict(pairs)


def _named(text: str) -> tuple[str, str]:
    name, mark, folder = text.partition("=")
    return (name, cli.path(folder)) if mark else ("", cli.path(text))


def _check_flags(options: flags.FlagValues, by_name: bool) -> None:
    if options.merge and options.bare:
        raise UserError("--merge and --bare are both given; give one of them")
    for flag in ("merge", "bare"):
        if by_name and options[flag].value:
            raise UserError(f"--{flag} is for one --tuned without a name; remove it or the names")


def _of_one(options: flags.FlagValues, folder: str | None, sources: list[Any]) -> list[dict[str, str]]:
    """Returns a line for each input of one tuned model."""
    from prefix_jax import inference

    tuned = inference.open_tuned(str(folder or options.workdir), cli.overrides(options))
    if options.merge:
        tuned = inference.with_merged_lora(tuned)
    kept = None if options.bare else tuned.kept
    records = inference.unanswered(tuned.session, sources)
    if sys.stdout.isatty() and not options.json and _streams(tuned.session, records):
        _stream(tuned.session, kept, records[0].source)
        return []
    texts = inference.outputs(tuned.session, kept, records, "generate", progress=len(sources) > 32)
    return [{"source": record.source, "output": text} for record, text in zip(records, texts, strict=True)]


def _streams(session: Any, records: list[Any]) -> bool:
    """Returns whether a text can be shown while it is generated."""
    from prefix_jax.parallel import distributed
    from prefix_jax.serving import streaming

    alone = len(records) == 1 and records[0].source and not records[0].choices
    return bool(alone) and not distributed.is_multiprocess() and streaming.streams(session)


def _stream(session: Any, kept: Any, source: str) -> None:
    from prefix_jax.serving.streaming import Streamer

    for piece in Streamer(session, kept).of_source(source):
        print(cli.for_stdout(_LINE_END.sub(" ", piece)), end="", flush=True)
    print()


def _by_name(options: flags.FlagValues, folders: dict[str, str], sources: list[Any]) -> list[dict[str, str]]:
    """Returns a line for each input with the tuned model that it names, or with each of them."""
    from prefix_jax import inference

    sources, which = _assigned(sources, options.tuned_column, list(folders))
    members = inference.open_several({name: Path(folder) for name, folder in folders.items()}, cli.overrides(options))
    bank = inference.TunedBank(next(iter(members.values())).session, slots=max(len(set(which)), len(folders)))
    for name, tuned in members.items():
        bank.put(name, tuned)
    found = bank.outputs(sources, which, progress=len(sources) > 32)
    return [
        {"tuned": name or "", "source": one.record.source, "output": one.text}
        for name, one in zip(which, found, strict=True)
    ]


def _assigned(sources: list[Any], column: str, names: list[str]) -> tuple[list[Any], list[str | None]]:
    """Returns inputs without the column of names, and the name for each; without that column, each with every name.

    Raises:
      UserError: some rows have the column and others do not.
    """
    has = [not isinstance(one, str) and column in one[1] for one in sources]
    if not any(has):
        return [one for one in sources for _ in names], [name for _ in sources for name in names]
    if not all(has):
        raise UserError(f'{sources[has.index(False)][0]} has no column "{column}", which other rows have; add it')
    which = [str(row[column] or "").strip() or None for _, row in sources]
    return [(where, {k: v for k, v in row.items() if k != column}) for where, row in sources], which


def _sources(texts: list[str] | None, file: str | None, form: str) -> list[Any]:
    """Returns sources as texts, or as rows with their locations."""
    if texts is not None:
        if file or form:
            other = "--input-file" if file else "--input-format"
            raise UserError(f"--input and {other} are both given; give one of them")
        return texts
    from prefix_jax.data import files, json_files

    path = None if file in (None, "", "-") else Path(file)
    if path is not None and not form and files.kind(path) in files.ROW_SUFFIXES:
        return files.read_rows(path)
    text = _text(path)
    name = path or Path("standard input")
    if not text.strip():
        raise UserError(f"{name} is empty; give one source a line, or --input")
    if form == "jsonl":
        return list(json_files.rows_of_text(text, name))
    return [text] if form == "text" else _lines(text, name)


def _text(path: Path | None) -> str:
    name, data = str(path or "standard input"), b""
    try:
        data = path.read_bytes() if path else sys.stdin.buffer.read()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{name} is not UTF-8 (line {line}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}; check the path") from None


def _lines(text: str, name: Path) -> list[str]:
    lines = disk.lines(text)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UserError(
                f"line {number} of {name} is empty; give it text or remove it, or add --input-format=text if the "
                "file is one source"
            )
    return lines


if __name__ == "__main__":
    cli.run(main, define_flags)
