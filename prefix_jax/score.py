"""Prints a task's official scores for a file of outputs and references.

python -m prefix_jax.score --task e2e --file rows.jsonl [--json]
"""

import argparse
import json
import sys
from collections.abc import Sequence

from prefix_jax import cli
from prefix_jax.metrics import TASKS, read_rows, score


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, or 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        with cli.user_errors():
            if options.task not in TASKS:
                score(options.task, [])  # Names the task that was meant, before anything is read.
            rows = read_rows(options.file)
            scores = score(options.task, rows, java=not options.no_java)
            print(json.dumps(scores) if options.json else _table(options.task, scores, len(rows)))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m prefix_jax.score", description="Official scores of a task.")
    parser.add_argument("--task", required=True, help=", ".join(TASKS))
    parser.add_argument(
        "--file",
        required=True,
        type=cli.path,
        help='JSON lines {"hypothesis": "...", "references": ["..."]}, for webnlg with "category"; - is standard input',
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--no-java", action="store_true", help="leave out the scores that need Java")
    return parser


def _table(task: str, scores: dict[str, float], rows: int) -> str:
    width = max(map(len, scores))
    values = {name: TASKS[task].format(name, value) for name, value in scores.items()}
    room = max(map(len, values.values()))
    return "\n".join([f"{task}, {rows} rows", *(f"{name:<{width}}  {text:>{room}}" for name, text in values.items())])


if __name__ == "__main__":
    sys.exit(main())
