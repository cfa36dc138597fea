"""Fixtures that several rooms share. Tests run on the CPU, in float32, and write to a cache of their own."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Where the real data sets are; tests that need them skip where they are absent."""
    named = os.environ.get("PREFIX_JAX_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the data sets are absent: set PREFIX_JAX_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> dict[str, Path]:
    """Tiny models of every family as Hugging Face directories."""
    pytest.importorskip("torch")
    from tests import tiny

    folder = tmp_path_factory.mktemp("tiny")
    return {family: tiny.save_model(folder / family, family) for family in tiny.FAMILIES}
