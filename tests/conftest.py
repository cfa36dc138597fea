"""Fixtures that several rooms share. Tests run on the CPU, in float32, and write to a cache of their own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

from tests import shapes

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS") or "cpu"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests compile far more than they compute: quick compilation, and programs kept between runs.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
_CACHE = os.environ.get("PREFIX_JAX_CACHE") or str(Path.home() / ".cache" / "prefix_jax")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(_CACHE, "compiled-for-tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# The shapes in the product's signatures are checked at every call.
install_import_hook("prefix_jax", f"{shapes.__name__}.checked")

import jax  # noqa: E402 (it reads the variables above)

ROOT = Path(__file__).resolve().parents[1]
_MANY_MAPPINGS = 15_000


@pytest.fixture(autouse=True)
def compiled_programs() -> Iterator[None]:
    """Lets go of the programs compiled so far where they are many.

    Each holds mappings of memory, and a process ends where it has more than Linux allows (`vm.max_map_count`: 65,530).
    """
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > _MANY_MAPPINGS:
        jax.clear_caches()


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
