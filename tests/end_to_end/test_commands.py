"""The commands as modules, and what all of them share."""

import subprocess
import sys

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
    assert {"train", "evaluate", "generate", "inspect", "sweep", "plan", "demo", "convert", "score"} == set(COMMANDS)
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_help_is_a_success_and_lists_the_options():
    done = subprocess.run(
        [sys.executable, "-m", "prefix_jax.evaluate", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "--workdir" in done.stdout and "--coordinator" in done.stdout
