"""The commands as modules, and what all of them share."""

import os
import shutil
import subprocess
import sys

import pytest

import prefix_jax
from prefix_jax import __main__ as front_door
from prefix_jax import cli, runs
from tests.conftest import ROOT

COMMANDS = sorted(
    path.stem for path in (ROOT / "prefix_jax").glob("*.py") if 'if __name__ == "__main__":' in path.read_text("utf-8")
)
IMPORT_ALL = f"""
import importlib
from absl import flags
for name in {[*COMMANDS, "reporting.__main__"]}:
    importlib.import_module(f"prefix_jax.{{name}}")
print([module for module in flags.FLAGS.flags_by_module_dict() if module.startswith("prefix_jax")])
"""


def test_all_commands_can_be_imported_together_and_define_no_flags():
    names = (
        "train evaluate generate inspect sweep plan demo convert score runs preview completion lm_eval serve chat share"
        " documents"
    )
    assert {*names.split(), "__main__"} == set(COMMANDS)
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_help_is_a_success_and_lists_the_options():
    done = subprocess.run(
        [sys.executable, "-m", "prefix_jax.evaluate", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "--workdir" in done.stdout and "--coordinator" in done.stdout


def test_one_name_has_all_commands():
    assert {module.partition(".")[0] for module, _ in front_door.COMMANDS.values()} >= set(COMMANDS) - {"__main__"}
    done = prefix_jax_command("--help")
    assert done.returncode == 0 and all(f"  {name} " in done.stdout for name in front_door.COMMANDS)
    assert len(done.stdout.splitlines()) < 25
    assert prefix_jax_command("--version").stdout == f"prefix_jax {prefix_jax.__version__}\n"
    done = prefix_jax_command("trian")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and 'did you mean "train"' in done.stderr


def prefix_jax_command(*words, **options):
    program = [sys.executable, "-m", "prefix_jax", *words]
    return subprocess.run(program, capture_output=True, text=True, check=False, **{"cwd": ROOT, **options})


def completed(*words: str) -> list[str]:
    """What bash offers for the last word."""
    script = prefix_jax_command("completion", "bash").stdout
    typed = " ".join(f'"{word}"' for word in words)
    asked = f'COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _prefix_jax; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", script + asked], cwd=ROOT / "docs", capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is absent")
def test_a_shell_completes_commands_options_and_names():
    assert completed("prefix-jax", "tr") == ["train"]
    assert completed("prefix-jax", "train", "--wor") == ["--workdir"]
    assert "--bare" in completed("prefix-jax", "evaluate", "--")
    assert completed("prefix-jax", "train", "--config", "=", "e2e_fl") == ["e2e_flan_t5_small"]
    assert completed("prefix-jax", "train", "--method", "lo") == ["lora"]
    assert completed("prefix-jax", "distill", "--method", "closed") == ["closed_form"]
    assert completed("prefix-jax", "train", "--data", "plain") == ["plain_text.md"]


def test_completion_knows_fish_and_refuses_other_shells():
    lines = prefix_jax_command("completion", "fish").stdout.splitlines()
    assert any("seen_subcommand_from generate" in line and "-l input_file" in line for line in lines)
    done = prefix_jax_command("completion", "bsh")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and 'did you mean "bash"' in done.stderr


def test_recipes_are_found_by_name_in_a_checkout_and_in_an_installed_package(tmp_path):
    """As setup.py installs it, `configs/` is the package `prefix_jax.recipes`."""
    shutil.copytree(ROOT / "prefix_jax", tmp_path / "prefix_jax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", tmp_path / "prefix_jax" / "recipes")
    for folder in (ROOT, tmp_path):
        where = dict(cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(folder)})
        # A recipe that imports another; its row length is refused before a model is loaded.
        words = ("--config", "demo_prefix_length", "--workdir", "x", "--config.training.batch=0")
        done = prefix_jax_command("train", *words, **where)
        assert done.returncode == 2 and "training.batch" in done.stderr, done.stderr
        done = prefix_jax_command("train", "--config=demoo", "--workdir", "x", **where)
        assert done.returncode == 2 and 'did you mean "demo"' in done.stderr


def test_runs_are_listed_and_compared(capsys):
    folder = ROOT / "tests" / "compatibility" / "v0.1.0"
    call = lambda *words: cli.call(lambda options: runs.main(options, [str(w) for w in words]), runs.define_flags, [])
    assert call(folder) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == [
        "lora", "prefix", "stopped", *(f"sweep/runs/length={n},seed={s}" for n in (1, 3) for s in (1, 2))
    ]  # fmt: skip
    assert "BLEU 0.83  0.00" in lines[3]
    assert call(folder / "lora", folder / "prefix") == 0
    said = capsys.readouterr().out
    assert "method" in said and "training.seed" not in said
    assert call(folder / "nothing") == 2 and "there are no runs" in capsys.readouterr().err
