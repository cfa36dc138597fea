"""`prefix-jax distill --model NAME --document FILE --length 128 --workdir DIR [--method train]`

Makes a short prefix that stands for a document: in seconds by Attention Matching, or trained on the model's own answers
about the document. The same command resumes; `--config.SECTION.OPTION=VALUE` sets options of the model and of training.
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags

from prefix_jax import cli


def define_flags() -> None:
    cli.define_path("model", None, "The frozen model: a name, a directory, a hub id or a GGUF file.")
    cli.define_path("document", None, "A text file.")
    cli.define_path("workdir", None, "The run directory: created, or resumed if it exists.")
    flags.DEFINE_integer("length", 128, "Slots of the prefix.", lower_bound=1)
    flags.DEFINE_enum(
        "method", "closed_form", ["closed_form", "train", "first", "chunks"],
        "Attention Matching; that and training; the document's first tokens; chunks spread over it.",
    )  # fmt: skip
    flags.DEFINE_integer("questions", 64, "Questions that the model writes and answers to learn from.", lower_bound=0)
    flags.DEFINE_integer("held_out", 32, "Questions that measure what is made.", lower_bound=1)
    cli.define_path("questions_file", None, "A file of questions, one a line, in place of the model's own.")
    flags.DEFINE_boolean("chat", None, "Questions are turns of a chat; by default where there is a chat template.")
    flags.DEFINE_integer("steps", None, "Steps of training.", lower_bound=0)
    cli.define_overrides()


def main(options: flags.FlagValues) -> None:
    cli.required(model=options.model, document=options.document, workdir=options.workdir)
    workdir = cli.new_directory(options.workdir)
    from prefix_jax.data.text_files import read_text
    from prefix_jax.disk import lines

    text = read_text(Path(options.document), "a document")
    given = lines(read_text(Path(options.questions_file), "a question a line")) if options.questions_file else []
    cli.enable_compile_cache()
    from prefix_jax.config import default_config
    from prefix_jax.distillation import distill
    from prefix_jax.training.session import open_session

    chosen = distill.Options(options.length, options.method, options.questions, options.held_out, chat=options.chat)
    chosen.check()
    changes = {**cli.overrides(options), "model.source": options.model}
    if options.steps is not None:
        changes["training.steps"] = options.steps
    base = default_config()
    base.update_from_flattened_dict(changes)
    session = open_session(distill.configured(base, chosen, changes))
    made = distill.distill(session, text, workdir, chosen, cli.command_line(), [line for line in given if line.strip()])
    if not made.finished:
        print("training was stopped; run the same command again to resume", file=sys.stderr)
        return
    print(table(made))
    print(
        f"the prefix is in {workdir}; next: prefix-jax generate --workdir {workdir} --input QUESTION", file=sys.stderr
    )


def table(made: Any) -> str:
    """Returns the table of what was measured of a `distill.Distilled`."""
    from prefix_jax.reporting.tables import text_table

    columns = ("prefix", "KL", "top-1 %", "log perplexity", "recovery")
    slots = made.prefix.decoder.key.shape[-2]
    title = f"{made.tokens:,} tokens in {slots} slots ({made.compression:.1f} tokens a slot), on held-out answers"
    return text_table(made.rows(), columns, title)


if __name__ == "__main__":
    cli.run(main, define_flags)
