"""How every command line starts and ends: flags to a configuration, one sentence and exit code 2 for bad input."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from prefix_jax.errors import UserError, did_you_mean

BAD_INPUT = 2
FAILED_RUN = 3
_PIPE_CLOSED = 141  # what a shell gives a program that SIGPIPE ended

# What the functions here define is shown by `--help` as the calling program's.
flags.disclaim_key_flags()


def fail(message: object) -> None:
    """Prints one sentence to stderr and exits with code 2."""
    print(f"error: {message}", file=sys.stderr)
    hosts = sys.modules.get("prefix_jax.parallel.hosts")
    if hosts is not None and hosts.joined():
        # At a usual exit this process would wait for the others, which may be gone or waiting for it.
        sys.stderr.flush()
        os._exit(BAD_INPUT)
    raise SystemExit(BAD_INPUT)


def end_failed_run(findings: Sequence[object], option: str) -> None:
    """Exits with code 3 where a run looks failed and `evaluation.failed_run` is "error"."""
    if findings and option == "error":
        sys.stdout.flush()
        raise SystemExit(FAILED_RUN)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turns UserError, and what a full disk, a full memory or an interrupt raises, into a sentence and an exit code."""
    try:
        yield
    except UserError as error:
        fail(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again at its end
        raise SystemExit(_PIPE_CLOSED) from None
    except OSError as error:
        if error.errno is None or error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}")
    except SyntaxError as error:
        fail(_recipe_message(error))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        fail(_memory_message(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls `main`, for `if __name__ == "__main__"`."""

    def parse(words: list[str]) -> list[str]:
        _check_config_file(words)
        try:
            rest = flags.FLAGS([words[0], *map(_underscored, words[1:])])
        except flags.Error as error:
            fail(_flag_message(error))
        except SyntaxError as error:
            fail(_recipe_message(error))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            fail(_config_message(error))
        if len(rest) > 1:
            fail(f'"{rest[1]}" is not an option; options start with --')
        return rest

    def guarded(_: list[str]) -> None:
        with user_errors():
            main()

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    logging.set_verbosity(logging.WARNING)
    app.run(guarded, flags_parser=parse)


def _underscored(word: str) -> str:
    """`--input-file=x` is `--input_file=x`."""
    name, equals, value = word.partition("=")
    return name[:2] + name[2:].replace("-", "_") + equals + value if name.startswith("--") else word


def required(**options: object) -> None:
    """Ends the program unless every option has a value."""
    for name, value in options.items():
        if value is None or value == "":
            fail(f"--{name} is missing; --help lists the options")


def define_recipe(holding: str = "get_config()") -> flags.FlagHolder:
    """Defines `--config FILE.py`, a file with the functions `holding`, and `--config.SECTION.OPTION=VALUE`."""
    from ml_collections import config_flags

    return config_flags.DEFINE_config_file(
        "config", None, f"The recipe, a Python file with {holding}.", lock_config=True
    )


def define_overrides() -> Callable[[], dict[str, Any]]:
    """Defines `--config.SECTION.OPTION=VALUE`; the result returns those that were given, by dotted name."""
    from ml_collections import config_flags

    from prefix_jax.config import default_config

    config_flags.DEFINE_config_dict("config", default_config(), "Options that replace the run's.")
    return lambda: dict(config_flags.get_override_values(flags.FLAGS["config"]))


def define_hosts() -> Callable[[Mapping[str, Any]], None]:
    """Defines `--coordinator`, `--processes` and `--process`; the result joins the others, whose options must agree."""
    coordinator = flags.DEFINE_string("coordinator", "", "Of several processes: host:port of process 0.")
    processes = flags.DEFINE_integer("processes", 0, "How many processes there are.", lower_bound=0)
    process = flags.DEFINE_integer("process", -1, "Which of them this is, from 0.", lower_bound=-1)
    wait = flags.DEFINE_integer("wait_seconds", 300, "How long processes wait for each other.", lower_bound=1)

    def join(options: Mapping[str, Any]) -> None:
        from prefix_jax.parallel import hosts

        hosts.join(coordinator.value, processes.value, process.value, wait.value)
        hosts.agree(options)

    return join


def command_line() -> list[str]:
    """Returns the words that started this program, as a user would type them."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return ["python", *(["-m", spec.name] if spec else sys.argv[:1]), *sys.argv[1:]]


def _flag_message(error: Exception) -> str:
    text = _config_message(error)
    return text[0].lower() + text[1:]


def _config_message(error: Exception) -> str:
    text = str(error.args[0]) if error.args else type(error).__name__
    mistyped = re.search(r'Did you mean "(.+?)" instead of "(.+?)"', text)
    if mistyped:
        return f'there is no option "{mistyped[2]}"; did you mean "{mistyped[1]}"?'
    return " ".join(text.replace("\\n", " ").split())


def _recipe_message(error: SyntaxError) -> str:
    return f"{error.filename} is no Python that can be read: line {error.lineno}, {error.msg}"


def _memory_message(error: Exception) -> str:
    found = re.search(r"allocat\w* ([\d.]+) ?(\w+)", str(error))
    wanted = ""
    if found:
        wanted = f" ({float(found[1]) / 2**30:,.1f} GiB" if found[2] == "bytes" else f" ({found[1]} {found[2]}"
        wanted += " more were wanted)"
    return (
        f"out of memory{wanted}; lower --config.training.batch, --config.data.row_length or --config.decoding.batch, "
        "set --config.model.rematerialise=True, or take more devices with --config.mesh.fsdp"
    )


def _check_config_file(words: list[str]) -> None:
    """Ends the program where `--config FILE[:ARGUMENT]` names no file: absl would say so only at its first use."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in ("--config", "-config"):
            path = Path((value if equals else following).partition(":")[0])
            if not path.is_file():
                known = sorted(found.name for found in path.parent.glob("*.py"))
                hint = did_you_mean(path.name, known) if known else "; recipes are in configs/"
                fail(f"there is no configuration {path}{hint}")


def enable_compile_cache() -> None:
    """Keeps compiled programs in the user's cache directory, so that the next process need not compile again."""
    from prefix_jax.models.pretrained.cache import keep_programs

    keep_programs()
