"""Prints a task's official scores for a file of outputs and references.

python -m prefix_jax.score --task e2e --file rows.jsonl [--language de] [--bleu-tokenizer intl] [--json]
"""

import argparse
import json
import sys
from collections.abc import Sequence

from prefix_jax import cli
from prefix_jax.metrics import read_rows
from prefix_jax.options import BLEU_TOKENIZERS, check_bleu_tokenizer, language_code
from prefix_jax.tasks import TASKS, Measured, Task, find, measure


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, or 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        with cli.user_errors():
            _score(options)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def _score(options: argparse.Namespace) -> None:
    language_code(options.language, "--language")
    check_bleu_tokenizer(options.bleu_tokenizer, "--bleu-tokenizer")
    task = find(options.task, "--task")
    rows = read_rows(options.file)
    found = measure(options.task, rows, not options.no_java, options.language, options.bleu_tokenizer)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    print(json.dumps(found.scores) if options.json else _table(task, found, len(rows)))
    for name, reason in found.unmeasured.items():
        print(f"note: no {name}: {reason}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m prefix_jax.score", description="Official scores of a task.")
    parser.add_argument("--task", required=True, help=", ".join(TASKS))
    parser.add_argument(
        "--file",
        required=True,
        type=cli.path,
        help='JSON lines {"hypothesis": "...", "references": ["..."]}, for webnlg with "category"; - is standard input',
    )
    parser.add_argument("--language", default="en", help="language of the references: an ISO code such as de, zh or ar")
    parser.add_argument(
        "--bleu-tokenizer",
        default="",
        help=f"sacrebleu's, for the tasks translation and text: {', '.join(BLEU_TOKENIZERS)}; default: by the language",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--no-java", action="store_true", help="leave out the scores that need Java")
    return parser


def _table(task: Task, found: Measured, rows: int) -> str:
    values = {name: task.format(name, found.scores.get(name)) for name in [*found.scores, *found.unmeasured]}
    width, room = max(map(len, values)), max(map(len, values.values()))
    lines = [f"{task.name}, {rows} rows", *(f"{name:<{width}}  {text:>{room}}" for name, text in values.items())]
    return "\n".join([*lines, *(f"{name}: {text}" for name, text in found.signatures.items())])


if __name__ == "__main__":
    sys.exit(main())
