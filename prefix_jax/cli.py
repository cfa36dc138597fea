"""Setup and teardown shared by all commands: flags to a configuration; one sentence and exit code 2 for bad input."""

import contextlib
import errno
import importlib
import logging as standard_logging
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from prefix_jax import disk, messages, surroundings
from prefix_jax.errors import UserError, did_you_mean, one_line, spelled_out
from prefix_jax.workdir import RUNS

BAD_INPUT = 2
FAILED_RUN = 3
_PIPE_CLOSED = 141  # exit code of shells for a program ended by SIGPIPE

# Options of a run that `train` and `data` have short names for.
_SHORT = {"model.source": "model", "data.path": "data", "data.task": "task", "method": "method"}
_OVERRIDES = "Options that replace the run's."
_OF_HOSTS = ("coordinator", "processes", "process", "wait_seconds")

# Flags defined by functions here are listed by `--help` as the calling program's.
flags.disclaim_key_flags()


# Errors of the system or the disk for which a sentence without a file name is enough.
_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENOMEM)


def fail(message: object) -> None:
    """Prints one sentence to stderr and exits with code 2."""
    _end(f"error: {_with_short_names(one_line(message))}", BAD_INPUT)


def _with_short_names(sentence: str) -> str:
    """Names `--data` in place of `--config.data.path` and the like, where the command has these options."""
    if not {"model", "data"} <= set(flags.FLAGS):
        return sentence
    for option, name in _SHORT.items():
        if name in flags.FLAGS:
            sentence = re.sub(rf"--config\.{re.escape(option)}\b", f"--{name}", sentence)
    return sentence


def _end(sentence: str, code: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # the stream is closed or full
        print(sentence, file=sys.stderr, flush=True)
    distributed = sys.modules.get("prefix_jax.parallel.distributed")
    if distributed is not None and distributed.joined():
        # A normal exit would wait for the other processes, which may be gone or waiting for this one.
        surroundings.leave(code)
    raise SystemExit(code)


def end_failed_run(findings: Sequence[object], option: str) -> None:
    """Exits with code 3 if a run looks failed and `evaluation.failed_run` is "error"."""
    if findings and option == "error":
        sys.stdout.flush()
        raise SystemExit(FAILED_RUN)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Converts UserError, and errors of a full disk, memory or an interrupt, to a sentence and an exit code."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # raises write errors here rather than at interpreter exit
    except UserError as error:
        fail(error)
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # prevents a second error at interpreter exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_PIPE_CLOSED) from None
    except OSError as error:
        if error.errno is None or (error.filename is None and error.errno not in _SYSTEM):
            raise
        reason = error.strerror or os.strerror(error.errno)
        fail(f"{error.filename}: {reason}" if error.filename else reason.lower())
    except SyntaxError as error:
        fail(_recipe_message(error))
    except (MemoryError, RuntimeError) as error:
        sentence = _memory_message(error) if _is_memory(error) else _surroundings_message(str(error))
        if not sentence:
            raise
        fail(sentence)
    except KeyboardInterrupt:
        surroundings.ending()
        _end("interrupted", surroundings.INTERRUPTED)


def _is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _surroundings_message(said: str) -> str:
    """Returns a sentence for errors of JAX and Python about invalid variables; "" for any other error."""
    if "nable to initialize backend" in said or "known backends" in said:
        return (
            f"the variable JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS', '')!r}, and JAX finds no such device here "
            f"({said.split(chr(10))[0]}); set it to cpu, or leave it out"
        )
    if "determine home directory" in said:
        return "the home directory is unknown; set the variable HOME, or write paths out and set PREFIX_JAX_CACHE"
    return ""


def run(
    main: Callable[[flags.FlagValues], None],
    define_flags: Callable[[], None],
    parse: Callable[[list[str]], list[str]] | None = None,
) -> None:
    """Defines and parses a command's flags and calls `main` with them, for `if __name__ == "__main__"`.

    Args:
      main: the command.
      define_flags: defines its flags; a function, because importing a command must not define any: absl rejects
        duplicate flags in a process.
      parse: parses the command line into `flags.FLAGS`; by default it rejects words that are not flags.
    """

    def guarded(_: list[str]) -> None:
        with user_errors():
            main(flags.FLAGS)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    logging.set_verbosity(logging.WARNING)
    standard_logging.raiseExceptions = False  # a failed log write must not stop anything
    with messages.installed(_command(), *messages.asked(sys.argv[1:])), user_errors():
        _define(define_flags)
        app.run(guarded, flags_parser=parse or _parse)


def run_with_arguments(main: Callable[[flags.FlagValues, list[str]], None], define_flags: Callable[[], None]) -> None:
    """Does what `run` does for a command that takes words beside its flags."""
    words: list[str] = []

    def parse(argv: list[str]) -> list[str]:
        words.extend(_flags_of(argv)[1:])
        return argv[:1]

    run(lambda options: main(options, words), define_flags, parse)


def call(main: Callable[[flags.FlagValues], None], define_flags: Callable[[], None], argv: Sequence[str]) -> int:
    """Runs a command within this process and returns its exit code; its flags are defined only meanwhile."""
    before, outside = set(flags.FLAGS), sys.argv
    sys.argv = ["prefix_jax", *argv]  # where ml_collections looks for the options of --config
    try:
        _define(define_flags)
        with messages.installed("prefix_jax", *messages.asked(argv)):
            _parse(sys.argv)
            with user_errors():
                main(flags.FLAGS)
        return 0
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        sys.argv = outside
        flags.FLAGS.remove_flag_values({name: flags.FLAGS[name] for name in set(flags.FLAGS) - before})
        flags.FLAGS.unparse_flags()


def _define(define_flags: Callable[[], None]) -> None:
    """Defines a command's flags, and those of all commands."""
    before = set(flags.FLAGS)
    define_flags()
    define_messages()
    if {"--help", "-h", "-help"} & set(sys.argv[1:]):
        print(usage(sorted(set(flags.FLAGS) - before)))
        raise SystemExit(0)


def define_messages() -> None:
    """Defines `--quiet` and `--log`, which `messages` reads before the command line is parsed."""
    flags.DEFINE_bool("quiet", False, "Say only warnings and errors.")
    flags.DEFINE_enum("log", "text", ["text", "json"], "The form of messages on stderr.")


def usage(names: Sequence[str]) -> str:
    """Returns what a command is and its options, one each, but for `--config.SECTION.OPTION`."""
    known = [flags.FLAGS[name] for name in names if not name.startswith("config.") and name not in _OF_HOSTS]
    known = [flag for flag in known if flag.help != _OVERRIDES]
    known.sort(key=lambda flag: flag.name in ("log", "quiet"))
    shown = [(_spelled(flag), str(flag.help or "").rpartition(">: ")[2]) for flag in known]
    if set(_OF_HOSTS) <= set(names):
        shown.append((", ".join(f"--{name}" for name in _OF_HOSTS), "for several processes"))
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    left = min(max((len(name) for name, _ in shown), default=0), 30) + 4
    lines = [(sys.modules["__main__"].__doc__ or "").strip(), "", "options:"]
    for name, about in shown:
        first = f"  {name}".ljust(left) if len(name) + 2 < left else f"  {name}  "
        lines.append(textwrap.fill(about, width, initial_indent=first, subsequent_indent=" " * left))
    if "config" in names:
        lines.append("\n--config.SECTION.OPTION=VALUE sets any other option; --helpfull lists them.")
    return "\n".join(lines)


def _spelled(flag: flags.Flag) -> str:
    if flag.boolean:
        return f"--{flag.name}" if not flag.default else f"--no{flag.name}"
    values = getattr(flag.parser, "enum_values", None)
    kind = {"int": "N", "float": "X", "path": "PATH"}.get(flag.flag_type(), "TEXT")
    default = f" ({flag.default})" if flag.default not in (None, "", [], 0, -1) and flag.name != "config" else ""
    return f"--{flag.name} {'|'.join(values) if values else 'FILE' if flag.name == 'config' else kind}{default}"


def _command() -> str:
    """The name of this program's command, such as "train"."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name.removesuffix(".__main__").rpartition(".")[2] if spec else Path(sys.argv[0]).stem


def _parse(argv: list[str]) -> list[str]:
    rest = _flags_of(argv)
    if len(rest) > 1:
        fail(f'"{rest[1]}" is not an option; options start with --')
    return rest


def _flags_of(argv: list[str]) -> list[str]:
    """Parses flags; returns the other words."""
    argv = _with_recipes(argv)
    try:
        return parsed(lambda: flags.FLAGS([argv[0], *map(_underscored, argv[1:])]))
    except SystemExit as ended:
        raise SystemExit(0 if ended.code == 1 else ended.code) from None  # absl exits --help with code 1


def parsed(parse: Callable[[], list[str]]) -> list[str]:
    """Calls a flag parser; its errors end the program with a sentence."""
    try:
        return parse()
    except flags.Error as error:
        fail(_flag_message(error))
    except SyntaxError as error:
        fail(_recipe_message(error))
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        fail(_config_message(error))
    raise AssertionError


def _underscored(word: str) -> str:
    """Rewrites `--input-file=x` as `--input_file=x`, and expands `~` in `--config=~/x.py`."""
    name, equals, value = word.partition("=")
    if name in ("--config", "-config"):
        return name + equals + disk.expanded(value)
    return name[:2] + name[2:].replace("-", "_") + equals + value if name.startswith("--") else word


def required(**options: object) -> None:
    """Ends the program unless every option is set."""
    for name, value in options.items():
        if value is None or value == "":
            fail(f"--{name} is missing; --help lists the options")


def path(text: str) -> str:
    """Returns a command-line path with `~` expanded: shells do not expand it in `--workdir=~/x`.

    Raises:
      ValueError: the home directory is unknown.
    """
    try:
        return disk.expanded(text)
    except UserError as error:
        raise ValueError(str(error)) from None


class _PathParser(flags.ArgumentParser):
    def parse(self, argument: str) -> str:
        return path(argument)

    def flag_type(self) -> str:
        return "path"


def define_path(name: str, default: str | None, about: str) -> None:
    """Defines a path option."""
    flags.DEFINE(_PathParser(), name, default, about)


def new_directory(text: str | None) -> Path:
    """Returns the directory of --workdir, to be created or resumed, after checking that it can be written.

    Raises:
      UserError: it is not a directory, or cannot be created; detected here before anything is loaded.
    """
    given = Path(str(text))
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(given)
        above = next(folder for folder in (given, *given.absolute().parents) if os.path.lexists(folder))
        if not above.exists():
            raise UserError(
                f"{above} is a broken link to {os.readlink(above)}; create its target or name another directory"
            )
        if not above.is_dir():
            raise UserError(f"{above} is a file; name a directory with --workdir")
    except OSError as error:
        raise UserError(f"--workdir {given}: {error.strerror}; name another") from None
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{above} cannot be written; make it writable, or choose another --workdir")
    return given


def define_recipe(holding: str = "get_config()") -> None:
    """Defines `--config FILE.py`, a file that defines `holding`, and `--config.SECTION.OPTION=VALUE`."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file("config", None, f"The recipe, a Python file with {holding}.", lock_config=True)


def define_overrides() -> None:
    """Defines `--config.SECTION.OPTION=VALUE`, which `overrides` returns."""
    from ml_collections import config_flags

    from prefix_jax.config import default_config

    parsed(lambda: [str(config_flags.DEFINE_config_dict("config", default_config(), _OVERRIDES, lock_config=True))])


def define_recipe_or_run() -> None:
    """Defines a recipe as `define_recipe` does, and what may be given in its place: a model, data and the like.

    Without a recipe `--config.SECTION.OPTION=VALUE` changes the defaults.
    """
    define_recipe() if names_a_recipe() else define_overrides()
    flags.FLAGS["config"].help = "The recipe: a Python file with get_config(), or the name of one."
    define_path("model", None, "The frozen model: a name, a directory, a hub id or a GGUF file.")
    define_path("data", None, "A file or a folder of rows, or a task's name.")
    flags.DEFINE_string("task", None, "The task of the rows in --data; by default pairs of source and target.")
    flags.DEFINE_string("method", None, "prefix, lora, prompt, infix, adapter, finetune, or several: prefix+lora.")
    flags.DEFINE_integer("steps", None, "Steps of training.", lower_bound=0)


def names_a_recipe() -> bool:
    """Returns whether the command line has `--config FILE`."""
    return any(word.partition("=")[0] in ("--config", "-config") for word in sys.argv[1:])


def say_next(done: str, *words: object) -> None:
    """Says on stderr where a command's result lies, and the command to run next."""
    rest = f"; next: {' '.join(map(str, words))}" if words else ""
    print(f"{done}{rest}", file=sys.stderr)


def configured(options: flags.FlagValues) -> Any:
    """Returns the configuration of `define_recipe_or_run`: the recipe or the defaults, with the options given.

    Raises:
      UserError: there is neither a recipe nor a model with data, or an option is not valid.
    """
    from prefix_jax.api.configuring import with_options
    from prefix_jax.api.data import named

    without = not names_a_recipe()
    if without and options.model is None:
        raise UserError("there is neither a recipe nor a model; give --config NAME, or --model NAME and --data FILE")
    if without and options.data is None and options.task is None:
        raise UserError("--data is missing: name a file of rows, or a task such as e2e")
    data = {} if options.data is None else named(options.data)
    asked = {"model.source": options.model, "method": options.method, "training.steps": options.steps}
    given = {name: value for name, value in asked.items() if value is not None}
    if options.task is not None:
        data["data.task"] = options.task
    return with_options(options.config, data | given | overrides(options))


def directory_of(config: Any) -> str:
    """Returns the run directory of a configuration for which none was named: the same each time."""
    parts = (config.model.source, config.data.path or config.data.task, config.method)
    return os.path.join(RUNS, "-".join(re.sub(r"\W+", "_", Path(str(part)).stem).strip("_") for part in parts))


def overrides(options: flags.FlagValues) -> dict[str, Any]:
    """Returns the configuration options given on the command line, by dotted name."""
    from ml_collections import config_flags

    return dict(config_flags.get_override_values(options["config"]))


def define_hosts() -> None:
    """Defines `--coordinator`, `--processes`, `--process` and `--wait_seconds`, which `join_hosts` reads."""
    flags.DEFINE_string("coordinator", "", "With several processes: host:port of process 0.")
    flags.DEFINE_integer("processes", 0, "Number of processes.", lower_bound=0)
    flags.DEFINE_integer("process", -1, "Index of this process, from 0.", lower_bound=-1)
    flags.DEFINE_integer("wait_seconds", 300, "Seconds that processes wait for each other.", lower_bound=1)


def join_hosts(options: flags.FlagValues, same: Mapping[str, Any]) -> None:
    """Joins the other processes, if any; all must agree on the values in `same`.

    Raises:
      UserError: the others cannot be reached, or were started with different values.
    """
    from prefix_jax.parallel import distributed

    distributed.join(options.coordinator, options.processes, options.process, options.wait_seconds)
    distributed.agree(same)


def command_line() -> list[str]:
    """Returns this program's command line, as a user would type it."""
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
    return f"{error.filename} is not valid Python: line {error.lineno}, {error.msg}"


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


def recipe(text: str) -> str:
    """Returns the file of a recipe: a path, or the bare name of one that comes with the package ("demo").

    A packaged recipe may import others as `configs.NAME`.
    """
    file = Path(disk.expanded(text))
    if file.is_file() or len(file.parts) != 1:
        return str(file)
    package = Path(__file__).parent
    for folder in (package / "recipes", package.parent / "configs"):
        found = folder / (file.name if file.suffix == ".py" else f"{file.name}.py")
        if found.is_file():
            if folder.name == "configs":
                sys.path.append(str(folder.parent))
            elif "configs" not in sys.modules:
                sys.modules["configs"] = importlib.import_module("prefix_jax.recipes")
            return str(found)
    return str(file)


def recipes() -> list[str]:
    """Returns the names of the recipes that come with the package."""
    package = Path(__file__).parent
    found = [path for folder in (package / "recipes", package.parent / "configs") for path in folder.glob("*.py")]
    return sorted({path.stem for path in found if "def get_config" in path.read_text(encoding="utf-8")})


def _with_recipes(argv: list[str]) -> list[str]:
    """Returns the words with the file of `--config FILE[:ARGUMENT]` in place of a recipe's bare name.

    Ends the program if the file does not exist, which absl would report late.
    """
    words, config = [], False
    for word in argv:
        name, equals, value = word.partition("=")
        named = name in ("--config", "-config")
        if config or (named and equals):
            text, colon, argument = (word if config else value).partition(":")
            file = recipe(text)
            if not Path(file).is_file():
                known = sorted(found.name for found in Path(file).parent.glob("*.py"))
                if len(Path(file).parts) == 1:
                    known = recipes()
                hint = did_you_mean(Path(file).name, known) if known else "; recipes are in configs/"
                fail(f"there is no configuration {file}{hint}")
            word = f"{'' if config else name + '='}{file}{colon}{argument}"
        words.append(word)
        config = named and not equals
    return words


def for_stdout(text: str) -> str:
    """Returns a text of a model as standard output takes it: a terminal obeys control characters, a file does not."""
    return spelled_out(text) if sys.stdout.isatty() else text


def enable_compile_cache() -> None:
    """Stores compiled programs in the user's cache directory, so that later processes need not recompile."""
    from prefix_jax.compile_cache import keep_programs

    keep_programs()


if surroundings.is_command():
    with user_errors():
        surroundings.prepare()
