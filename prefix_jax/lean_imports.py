"""Imports of libraries without the packages that these would load where they are installed, and that nothing here uses.

transformers and tensorboardX load PyTorch, which takes seconds; nltk, which rouge_score
uses for its stemmer, loads `scipy.stats`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def block_torch() -> None:
    """Makes PyTorch look absent in this process, unless it is imported."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]


def allow_torch() -> None:
    """Undoes `block_torch`, before a user's own module is imported, which may use PyTorch."""
    if "torch" not in sys.modules or sys.modules["torch"] is not None:
        return
    del sys.modules["torch"]
    # transformers remembers what it found absent: the user's module imports it afresh.
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
        del sys.modules[name]


@contextmanager
def without(name: str) -> Iterator[None]:
    """Makes a module look absent in a `with` block, unless it is imported."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
