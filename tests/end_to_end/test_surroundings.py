"""Odd surroundings: streams, paths, variables, umask, signals. Each works, or is refused at the start."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefix_jax import cli, disk, generate, serve
from prefix_jax.errors import UserError
from prefix_jax.training.loop import Stop
from tests import runs
from tests.conftest import ROOT

START = "from prefix_jax import cli, surroundings\nwith cli.user_errors():\n    surroundings.prepare()\n"


def shell(code: str, around: str = "{}", **variables: str) -> tuple[int, str]:
    """Runs Python code after what a command does first; `around` is the shell's line about it, {} the program."""
    line = around.format('"$PYTHON" -c "$CODE"')
    code = START + "".join(f"    {line}\n" for line in code.split("\n"))
    environment = {**os.environ, "PYTHON": sys.executable, "CODE": code, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(["sh", "-c", line], capture_output=True, env=environment, cwd=ROOT)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


@pytest.mark.parametrize(
    ("around", "code", "said"),
    [
        ("{} >&-", 2, "error: cannot write to standard output: it is closed\n"),
        ("{} >/dev/full", 2, "error: cannot write to standard output: no space left on device\n"),
        ("{} 2>&-", 0, "result é\n"),
        ("{} 2>/dev/full", 0, "result é\n"),
        ("{} <&- 2>&-", 0, "result é\n"),
        ("{} | true; exit 3", 3, ""),
        ("{} >&- 2>&-", 2, ""),
        ("PYTHONIOENCODING=ascii {}", 0, "result é\n"),
        ("env -u LANG PYTHONIOENCODING=cp1252:strict {}", 0, "result é\n"),
        ("PYTHONWARNINGS=error {}", 0, "result é\n"),
    ],
)
def test_streams_that_are_closed_full_or_narrow(around, code, said, tmp_path):
    """Also a file that is opened does not get the number of a closed stream."""
    program = f"import os, sys, warnings\nwarnings.warn('x')\nfile = open({str(tmp_path / 'x')!r}, 'w')\n"
    program += "assert file.fileno() > 2\nprint('message é', file=sys.stderr)\nprint('result \\u00e9')"
    ended, found = shell(program, around)
    shown = [line for line in found.split("\n") if "arn" not in line and not line.startswith("message")]
    assert (ended, "\n".join(shown)) == (code, said)


def test_control_characters_of_files_and_models_do_not_reach_a_terminal(monkeypatch):
    program = "import sys\nsys.stderr.write('\\r\\x1b[Kbar \\x1b[31m\\x1b]0;x\\x07 \\u202e \\x9b1m\\n\\tend')"
    assert shell(program) == (0, "\r\x1b[Kbar \\x1b[31m\\x1b]0;x\\x07 \\u202e \\x9b1m\n\tend")
    text = "a\x1b[31m\tb\u202e\né"
    assert cli.for_stdout(text) == text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli.for_stdout(text) == "a\\x1b[31m\tb\\u202e\né"


@pytest.mark.parametrize(
    ("around", "named"),
    [
        ("mkdir gone; cd gone; rmdir ../gone; {}", "the current directory no longer exists"),
        ("PYTHONOPTIMIZE=2 {}", "PYTHONOPTIMIZE=2"),
        ("XLA_FLAGS='--xla_a=1 junk' {}", 'the environment variable XLA_FLAGS has "junk"'),
        ("JAX_PLATFORMS=junk {}", "the variable JAX_PLATFORMS is 'junk'"),
        ("env -u HOME PREFIX_JAX_CACHE='~nouser/x' {}", "the home directory is unknown"),
    ],
)
def test_surroundings_in_which_nothing_works_are_one_sentence(around, named, tmp_path):
    program = "import jax\nfrom prefix_jax.cache import cache_path\ncache_path()\njax.devices()"
    code, said = shell(program, f"cd {tmp_path}; {around}", PYTHONDONTWRITEBYTECODE="1")
    assert code == 2 and said.startswith("error: ") and named in said and said.count("\n") == 1, said


@pytest.mark.parametrize("mask", [0o077, 0o002, 0o022])
def test_files_have_the_mode_that_the_umask_says(mask, tmp_path):
    before = os.umask(mask)
    try:
        disk.write_text(tmp_path / "a" / "scores.json", "{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a" / "scores.json").stat().st_mode) == 0o666 & ~mask


def test_temporary_files_of_killed_processes_are_removed_and_others_stay(tmp_path):
    kept = {"scores.json", ".hidden-file", ".scores.json", ".notes.md-old"}
    for name in (*kept, ".prefix.safetensors-ab12cd34", ".scores.json-x_3kz9ab"):
        (tmp_path / name).write_text("")
    with contextlib.suppress(KeyboardInterrupt), disk.replacing(tmp_path / "scores.json"):
        os.link(next(tmp_path.glob(".scores.json-????????")), tmp_path / ".scores.json-12345678")
        raise KeyboardInterrupt
    disk.drop_leftovers(tmp_path, tmp_path / "absent")
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_tilde_is_a_home_directory_or_a_sentence(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert cli.path("~/x") == "/somewhere/x" and cli.path("a/~b") == "a/~b"
    with pytest.raises(ValueError, match='"~nouser/x": there is no user nouser; write the path out'):
        cli.path("~nouser/x")


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("file", "file is a file; name a directory with --workdir"),
        ("file/below", "file is a file"),
        ("dangling", "is a broken link to nowhere"),
        ("dangling/below", "is a broken link to nowhere"),
        ("x" * 300, "ile name too long"),
        ("locked/below", "cannot be written"),
    ],
)
def test_a_working_directory_that_cannot_be_made_is_refused_before_anything_is_loaded(name, named, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    if "locked" in name and os.access(tmp_path / "locked", os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(UserError, match=named):
        cli.new_directory(str(tmp_path / name))


@pytest.mark.parametrize("name", ["new", "a b/c", "[x]", "slash/", "link", "~", "."])
def test_other_names_of_working_directories_are_taken(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert cli.new_directory(name) == Path(name)


# Options that take text which is not a path. An option of a new name is one or the other: `cli.define_path`.
TEXT = {"split", "input", "coordinator", "only", "job", "jobs", "topology", "name", "target", "task", "config"}
TEXT |= {"language", "bleu_tokenizer", "to", "input_format", "method", "tuned_column", "system", "host", "api_key"}
TEXT |= {"repo", "base_model", "license"}
# Options with a name before the path; the commands expand them.
NAMED = {"tuned"}
INTROSPECT = """
import importlib, sys
from absl import flags
from prefix_jax import cli
shared = set(flags.FLAGS)
names = "train evaluate generate inspect sweep plan demo convert score share preview serve chat reporting.__main__"
names += " documents"
for name in names.split():
    importlib.import_module(f"prefix_jax.{name}").define_flags()
    for option in set(flags.FLAGS) - shared:
        print(option, type(flags.FLAGS[option].parser).__name__)
    flags.FLAGS.remove_flag_values({o: flags.FLAGS[o] for o in set(flags.FLAGS) - shared})
"""


def test_every_option_that_is_a_path_expands_a_tilde():
    done = subprocess.run([sys.executable, "-c", INTROSPECT], capture_output=True, text=True, check=True, cwd=ROOT)
    found = dict(line.split() for line in done.stdout.strip().split("\n"))
    others = ("_PathParser", "IntegerParser", "BooleanParser", "FloatParser")
    texts = {name for name, kind in found.items() if kind not in others}
    assert texts - TEXT - NAMED == set()
    home = os.path.expanduser("~")
    assert generate._folders(["~/x"]) == {"": f"{home}/x"}
    assert generate._folders(["a=~/x", "b=~/y"]) == {"a": f"{home}/x", "b": f"{home}/y"}
    assert [str(folder) for folder in serve._named("a=~/x")] == ["a", f"{home}/x"]
    paths = {name for name, kind in found.items() if kind == "_PathParser"}
    assert paths == {
        "workdir",
        "tuned",
        "input_file",
        "against",
        "recipe",
        "from",
        "out",
        "model",
        "file",
        "folder",
        "tuned_dir",
        "figures",
    } | (paths - texts)


def test_a_hangup_saves_first_as_the_other_signals_do_unless_it_is_ignored():
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.01)
        assert stop.asked
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.asked and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("seconds", [0.15, 0.5, 1.0, 2.0])
def test_an_interrupt_while_libraries_load_is_one_word(seconds, tmp_path):
    words = ["-m", "prefix_jax.convert", "--from", str(tmp_path), "--to", "peft", "--out", str(tmp_path / "x")]
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert (process.returncode, said) == (130, "interrupted\n") or (process.returncode == 2 and said.count("\n") == 1)


def test_an_interrupt_after_the_end_changes_nothing():
    program = """
import builtins, os, signal, sys
from prefix_jax import surroundings
surroundings.prepare()
class Late:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGINT):
        kill(process, number)
builtins.late = Late()
sys.exit(2)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "")


@pytest.mark.slow
def test_a_run_in_all_of_them_at_once(tiny_models, tmp_path):
    """Killed by a hangup, resumed, and its text generated."""
    recipe = runs.write_recipe(tmp_path / "recipe", tiny_models["gpt2"], steps=4)
    workdir = tmp_path / "{a}[b]*?'\" #%é" / "run~"
    variables = {
        **runs.environment(tmp_path / "cache"), "HOME": "/nohome", "TMPDIR": "/nowhere", "LC_ALL": "C", "COLUMNS": "x",
        "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONWARNINGS": "error", "TERM": "dumb", "NO_COLOR": "1",
    }  # fmt: skip
    program = [sys.executable, "-m", "prefix_jax.train", "--config", str(recipe), "--workdir", str(workdir)]
    for steps in ("4", "6"):
        line = f'umask 077; exec "$@" --config.training.steps={steps} 2>/dev/full <&- >&-'
        done = subprocess.run(["sh", "-c", line, "sh", *program], cwd=ROOT, env=variables)
        assert done.returncode == 0
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"4", "6"}
    assert stat.S_IMODE((workdir / "tuned" / "prefix.json").stat().st_mode) == 0o600
    program = [sys.executable, "-m", "prefix_jax.generate", "--workdir", str(workdir), "--input", "é"]
    done = subprocess.run(program, cwd=ROOT, env=variables, capture_output=True)
    assert done.returncode == 0 and done.stdout.decode("utf-8").endswith("\n")
