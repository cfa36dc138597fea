"""What commands say on stderr with `--quiet` and `--log=json`, and their `--help`."""

import importlib
import io
import json
import os
import sys

import pytest
from absl import flags

from prefix_jax import __main__ as front_door
from prefix_jax import cli, messages
from prefix_jax.errors import UserError
from prefix_jax.training.progress import Progress


def said(capsys, words: list[str], main) -> tuple[int, str]:
    """Calls a command with the options that all have; returns its exit code and what it says on stderr."""
    code = cli.call(main, lambda: None, words)
    return code, capsys.readouterr().err


def talks(options) -> None:
    print("train: 40 records of rows.jsonl", file=sys.stderr)
    print("warning: 3 rows repeat", file=sys.stderr)
    with Progress(2, 0, "train") as progress:
        progress.update(1, {"loss": 2.0})
        progress.update(2, {"loss": 1.5})
    print('{"step": 1}', file=sys.stderr)
    print("the last line", end="", file=sys.stderr)
    raise UserError("there is no such file; name another")


def test_quiet_leaves_warnings_and_errors(capsys):
    code, err = said(capsys, ["--quiet"], talks)
    assert (code, err) == (2, "warning: 3 rows repeat\nerror: there is no such file; name another\n")


def test_json_has_an_object_a_line(capsys):
    code, err = said(capsys, ["--log=json"], talks)
    lines = [json.loads(line) for line in err.split("\n")[:-1]]
    assert code == 2 and [line.get("level") for line in lines] == [
        "info",
        "warning",
        "info",
        "info",
        None,
        "info",
        "error",
    ]
    assert lines[0]["message"] == "train: 40 records of rows.jsonl" and lines[1]["message"] == "3 rows repeat"
    assert lines[3]["progress"] == {"label": "train", "step": 2, "steps": 2, "loss": 1.5}
    assert lines[4] == {"step": 1}
    assert lines[-1]["message"] == "there is no such file; name another"
    assert all(line["time"].endswith("+00:00") and line["command"] == "prefix_jax" for line in lines if "level" in line)


def test_both_leave_warnings_and_errors_as_objects(capsys):
    code, err = said(capsys, ["--quiet", "--log", "json"], talks)
    assert [json.loads(line)["level"] for line in err.split("\n")[:-1]] == ["warning", "error"]


@pytest.mark.parametrize("as_json", [False, True])
def test_an_unexpected_error_is_never_lost(as_json):
    stream, before = io.StringIO(), sys.stderr
    sys.stderr = stream
    try:
        with pytest.raises(SystemExit) as ended, messages.installed("train", True, as_json):
            raise KeyError("x")
        assert sys.stderr is stream and ended.value.code == 1
    finally:
        sys.stderr = before
    text = stream.getvalue()
    assert "Traceback" in (json.loads(text)["traceback"] if as_json else text) and "KeyError" in text


def test_a_misspelt_form_is_one_sentence(capsys):
    code, err = said(capsys, ["--log=xml"], talks)
    assert code == 2 and err.count("\n") == 1 and "xml" in err


@pytest.mark.parametrize("name", [name for name in front_door.COMMANDS if name not in ("completion", "lm_eval")])
def test_help_fits_a_screen_and_points_to_the_full_list(name, monkeypatch):
    module = importlib.import_module(f"prefix_jax.{front_door.COMMANDS[name][0]}")
    module = importlib.import_module(f"{module.__name__}.__main__") if hasattr(module, "__path__") else module
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.setattr(cli.shutil, "get_terminal_size", lambda _: os.terminal_size((100, 40)))
    before, out = set(flags.FLAGS), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    try:
        with pytest.raises(SystemExit) as ended:
            cli._define(module.define_flags)
        defined = set(flags.FLAGS) - before
    finally:
        flags.FLAGS.remove_flag_values({one: flags.FLAGS[one] for one in set(flags.FLAGS) - before})
    lines = out.getvalue().split("\n")
    assert ended.value.code == 0 and len(lines) <= 34 and max(map(len, lines)) <= 120
    own = {one for one in defined if not one.startswith("config")}
    assert all(f"--{one}" in out.getvalue() or f"--no{one}" in out.getvalue() for one in own)
    assert ("--helpfull" in out.getvalue()) == ("config" in defined)
