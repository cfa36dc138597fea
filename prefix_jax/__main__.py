"""`prefix-jax COMMAND ...`, also as `python -m prefix_jax COMMAND ...`: the commands under one name."""

import runpy
import sys

# Each command's module and what it does, in the order of use.
COMMANDS = {
    "demo": ("demo", "tune a prefix on a small model and data set, score it, write a report"),
    "data": ("preview", "what a recipe's data become: counts, lengths, findings, rows as tokens"),
    "train": ("train", "tune a prefix or another method; the same command resumes"),
    "distill": ("documents", "make a short prefix that stands for a document"),
    "evaluate": ("evaluate", "score what was tuned, with and without it"),
    "generate": ("generate", "write text with what was tuned"),
    "chat": ("chat", "talk to what was tuned, or to a model"),
    "serve": ("serve", "serve a model and many prefixes by OpenAI's API"),
    "inspect": ("inspect", "measure attention to the prefix and its effect on predictions"),
    "runs": ("runs", "list the runs in a folder, or compare two option by option"),
    "sweep": ("sweep", "run the rows of a recipe's sweep()"),
    "report": ("reporting", "write the report of a run again"),
    "convert": ("convert", "change the file format of what was tuned, such as to PEFT's"),
    "share": ("share", "upload what was tuned to the Hugging Face hub, for PEFT too"),
    "score": ("score", "score a file of outputs and references"),
    "lm_eval": ("lm_eval", "EleutherAI's evaluation harness with what was tuned"),
    "plan": ("plan", "the cost of a step on TPUs, without a TPU"),
    "completion": ("completion", "a script that completes commands and options in bash, zsh or fish"),
}


def main() -> None:
    """Runs the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help", "help"):
        print(usage())
    elif name == "--version":
        import prefix_jax

        print(f"prefix_jax {prefix_jax.__version__}")
    elif name in COMMANDS:
        module = f"prefix_jax.{COMMANDS[name][0]}"
        del sys.argv[1]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        from prefix_jax import cli
        from prefix_jax.errors import did_you_mean

        cli.fail(f'"{name}" is not a command{did_you_mean(name, list(COMMANDS))}; prefix-jax --help lists them')


def usage() -> str:
    """Returns the commands, one a line."""
    lines = [f"  {name:<12}{about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: prefix-jax COMMAND [--OPTION=VALUE ...]",
            "",
            *lines,
            "",
            "prefix-jax COMMAND --help lists a command's options. First steps:",
            "  prefix-jax train --config demo --workdir runs/mine",
            '  prefix-jax generate --workdir runs/mine --input "name : Gull Light | place : Golden Bay"',
        ]
    )


if __name__ == "__main__":
    main()
