"""The wheel and the source distribution: what is in them, and that they work from another folder."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import prefix_jax
from prefix_jax import extras
from prefix_jax.errors import UserError
from tests.conftest import ROOT

BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
EXTRAS = {"plan", "metrics", "serve", "slurm", "onnx", "figures", "lm_eval", "dev", "all"}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with both, built of the files that belong to the project."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    for name in ("prefix_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, source)
    for hook in ("build_sdist", "build_wheel"):
        words = [sys.executable, "-c", BUILD, hook, str(folder)]
        done = subprocess.run(words, cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder


def metadata(built: Path):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith("dist-info/METADATA"))
        return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_what_commands_need_and_no_more(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        entry = wheel.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    wanted = ("py.typed", "recipes/demo.py", "serving/page.html", "data/lighthouse/train.jsonl", "reporting/paper.py")
    assert {f"prefix_jax/{name}" for name in wanted} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {"prefix_jax", f"prefix_jax-{prefix_jax.__version__}.dist-info"}
    assert "prefix-jax = prefix_jax.__main__:main" in entry


def test_the_source_distribution_holds_what_builds_the_wheel(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    files = {"pyproject.toml", "setup.py", "README.md", "LICENSE", "configs/demo.py", "prefix_jax/serving/page.html"}
    assert files | {path.name for path in ROOT.glob("requirements*.txt") if "docs" not in path.name} <= names


def test_the_basic_installation_needs_little_and_each_extra_is_there(built):
    about = metadata(built)
    assert set(about.get_all("Provides-Extra")) == {name.replace("_", "-") for name in EXTRAS}
    needed = [line for line in about.get_all("Requires-Dist") if "extra ==" not in line]
    names = {re.split(r"[^\w-]", line)[0].lower() for line in needed}
    assert {"jax", "flax", "transformers"} <= names and len(names) <= 20
    assert not names & {package.lower() for package, _ in extras.EXTRAS.values()}
    for package, extra in extras.EXTRAS.values():
        own = [line for line in about.get_all("Requires-Dist") if f'extra == "{extra.replace("_", "-")}"' in line]
        asked = "jax[tpu]" if package == "libtpu" else package
        assert any(line.lower().startswith(asked.lower()) for line in own), (package, extra)


def test_the_wheel_works_from_another_folder(built, tmp_path):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")
    where = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}}
    ask = "import prefix_jax; print(prefix_jax.__file__); from prefix_jax.data import grammar"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, **where)
    assert done.stdout.startswith(str(tmp_path / "installed")), done.stderr
    words = ("train", "--config", "demo", "--workdir", "x", "--config.training.batch=0")
    done = subprocess.run([sys.executable, "-m", "prefix_jax", *words], capture_output=True, text=True, **where)
    assert done.returncode == 2 and "training.batch" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("module", extras.EXTRAS)
def test_what_is_missing_is_asked_for_in_one_sentence(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    package, extra = extras.EXTRAS[module]
    with pytest.raises(UserError, match=re.escape(f"X needs the package {package}; pip install 'prefix_jax[{extra}]'")):
        extras.require(module, "X")


def test_scores_and_models_ask_for_their_packages(monkeypatch):
    from prefix_jax.metrics import bleu
    from prefix_jax.models.pretrained import onnx_file

    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UserError, match="BLEU needs the package sacrebleu; pip install 'prefix_jax.metrics.'"):
        bleu._metric("13a", False, "exp")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="model.onnx, which is an ONNX file, needs the package onnx"):
        onnx_file.read(b"", "model.onnx")
