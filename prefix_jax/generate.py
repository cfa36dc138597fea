"""`python -m prefix_jax.generate --workdir DIR --input TEXT` (or `--tuned DIR/tuned`; also `--input` several times,
`--input-file FILE`, or stdin)

Prints one line of text for each input: its label for tasks that have labels, which is the best of them by
log-likelihood. Inputs are read like the sources of the training data. A file has one a line, or is a table with the
columns of the training data (`.jsonl`, `.csv` ...), or with `--input-format=text` is one input.
"""

import json
import re
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from absl import flags

from prefix_jax import cli, disk
from prefix_jax.errors import UserError

_LINE_END = re.compile(r"\r\n|\r|\n")


def define_flags() -> None:
    cli.define_path("workdir", None, "The run directory of a training run.")
    cli.define_path("tuned", None, "In place of --workdir: a folder with a tuned prefix, one of PEFT, or a hub id.")
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
    folder = options.tuned or options.workdir
    cli.required(workdir=folder)
    if options.merge and options.bare:
        raise UserError("--merge and --bare are both given; give one of them")
    sources = _sources(options.input, options.input_file, options.input_format or "")
    cli.enable_compile_cache()
    cli.join_hosts(
        options,
        {
            "workdir": str(folder),
            "bare": options.bare,
            "merge": options.merge,
            "sources": sha256(repr(sources).encode()).hexdigest(),
        },
    )
    from prefix_jax import inference
    from prefix_jax.parallel import distributed

    tuned = inference.open_tuned(str(folder), cli.overrides(options))
    if options.merge:
        tuned = inference.with_merged_lora(tuned)
    kept = None if options.bare else tuned.kept
    records = inference.unanswered(tuned.session, sources)
    texts = inference.outputs(tuned.session, kept, records, "generate", progress=len(sources) > 32)
    for record, text in zip(records, texts, strict=True) if distributed.is_primary() else ():
        if options.json:
            print(json.dumps({"source": record.source, "output": text}, ensure_ascii=False))
        else:
            print(" ".join(_LINE_END.split(text)))
    sys.stdout.flush()


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
