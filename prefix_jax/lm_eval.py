"""`prefix-jax lm_eval run --model_args tuned=DIR --tasks TASK ...`: EleutherAI's evaluation harness on our models.

All arguments are those of the command `lm_eval`; `--model` is `prefix_jax` here, and a batch has 16 contexts.
`--model_args` takes `tuned=DIR` (a run) or `pretrained=MODEL` (a model without anything tuned), `max_length`, and
options of the run by dotted name, such as `model.dtype=bfloat16`.
"""

import sys
from collections.abc import Sequence

from prefix_jax import cli, extras, lean_imports
from prefix_jax.errors import UserError

_DEFAULTS = {("--model", "-M"): "prefix_jax", ("--batch_size", "-b"): "16"}


def with_defaults(arguments: Sequence[str]) -> list[str]:
    """Returns the harness's arguments, with this model and its batch size where none are given."""
    words = list(arguments)
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help"):
        words.insert(0, "run")
    names = {word.partition("=")[0] for word in words}
    if words[:1] == ["run"] and not names & {"--config", "-C", "-h", "--help"}:
        words += [word for both, value in _DEFAULTS.items() if not names & set(both) for word in (both[0], value)]
    return words


def main(arguments: Sequence[str]) -> None:
    """Runs the harness's command line."""
    with cli.user_errors():
        extras.require("lm_eval", "lm_eval")
    lean_imports.allow_torch()  # of its metrics and model classes, some use it
    from lm_eval.__main__ import cli_evaluate

    from prefix_jax import harness  # noqa: F401 (registers the model)

    sys.argv = ["lm_eval", *with_defaults(arguments)]
    try:
        cli_evaluate()
    except UserError as error:
        cli.fail(error)


if __name__ == "__main__":
    main(sys.argv[1:])
