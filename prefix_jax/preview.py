"""`prefix-jax data --config configs/NAME.py [--config.SECTION.OPTION=VALUE ...]`, or `--data FILE --model MODEL`

What a recipe's data become before anyone trains: counts of each split, lengths as a picture, what the tokenizer loses,
and three rows as tokens: masked, source, and target, which has the loss. No weights are loaded.
"""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from prefix_jax import cli


def define_flags() -> None:
    if _names_recipe():
        cli.define_recipe()
    else:
        cli.define_overrides()
    cli.define_path("data", None, "A file, folder or pattern, in place of the recipe's data.")
    cli.define_path("model", None, "A model, in place of the recipe's.")
    flags.DEFINE_integer("rows", 3, "Training rows to show as tokens.", lower_bound=0)
    flags.DEFINE_bool("json", False, "Print one JSON object.")
    cli.define_path("report", None, "A file to write the same to as a page, such as data.html.")


def _names_recipe() -> bool:
    return any(word.partition("=")[0] in ("--config", "-config") for word in sys.argv[1:])


def main(options: flags.FlagValues) -> None:
    from prefix_jax.inspection.data_summary import data_summary
    from prefix_jax.reporting.data_page import write_data_page
    from prefix_jax.reporting.data_terminal import data_text

    summary = data_summary(_configuration(options), options.rows)
    if options.report:
        write_data_page(Path(options.report), summary)
    if options.json:
        print(json.dumps(summary, ensure_ascii=False))
        return
    terminal = sys.stdout is not None and sys.stdout.isatty()
    colour = terminal and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
    print(data_text(summary, min(shutil.get_terminal_size((100, 40)).columns, 140), colour))
    cli.say_next("nothing is trained yet", "prefix-jax train", shlex.join(_of_training(sys.argv[1:])))


def _of_training(words: Sequence[str]) -> list[str]:
    """Returns the words of a command line without the options that `train` does not have."""
    kept, own, skip = [], ("rows", "report"), False
    for word in words:
        name, equals, _ = word.lstrip("-").partition("=")
        if not skip and name not in (*own, "json"):
            kept.append(word)
        skip = word.startswith("-") and name in own and not equals
    return kept


def _configuration(options: flags.FlagValues) -> Any:
    """Returns the recipe's configuration, or the defaults, with the data and the model of the flags."""
    from prefix_jax.tasks import ANY_ROWS

    config = options.config.copy_and_resolve_references()
    if options.data:
        config.data.path = options.data
        if not _names_recipe() and "data.task" not in cli.overrides(options):
            config.data.task = ANY_ROWS
    if options.model:
        config.model.source = options.model
    return config


if __name__ == "__main__":
    cli.run(main, define_flags)
