"""Prints a task's official scores for a file of outputs and references.

python -m prefix_jax.score --task e2e --file rows.jsonl [--language de] [--bleu-tokenizer intl] [--json]
"""

import json
import sys

from absl import flags

from prefix_jax import cli
from prefix_jax.metrics import read_rows
from prefix_jax.options import BLEU_TOKENIZERS, check_bleu_tokenizer, language_code
from prefix_jax.tasks import TASKS, Measured, Task, find, measure


def define_flags() -> None:
    flags.DEFINE_string("task", None, ", ".join(TASKS))
    cli.define_path(
        "file",
        None,
        'JSON lines {"hypothesis": "...", "references": ["..."]}, for webnlg with "category"; - is standard input.',
    )
    flags.DEFINE_string("language", "en", "Language of the references: an ISO code such as de, zh or ar.")
    about = f"sacrebleu's, for the tasks translation and text: {', '.join(BLEU_TOKENIZERS)}; default: by the language."
    flags.DEFINE_string("bleu_tokenizer", "", about)
    flags.DEFINE_bool("json", False, "Print one JSON object.")
    flags.DEFINE_bool("no_java", False, "Leave out the scores that need Java.")


def main(options: flags.FlagValues) -> None:
    cli.required(task=options.task, file=options.file)
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


def _table(task: Task, found: Measured, rows: int) -> str:
    values = {name: task.format(name, found.scores.get(name)) for name in [*found.scores, *found.unmeasured]}
    width, room = max(map(len, values)), max(map(len, values.values()))
    lines = [f"{task.name}, {rows} rows", *(f"{name:<{width}}  {text:>{room}}" for name, text in values.items())]
    return "\n".join([*lines, *(f"{name}: {text}" for name, text in found.signatures.items())])


if __name__ == "__main__":
    cli.run(main, define_flags)
