"""Conversion of a typed source, or a line of a file, to the format of a task's reader."""

from prefix_jax.data.readers import e2e
from prefix_jax.errors import UserError

_ONE_LINE = ("xsum", "cnn_dm")


def as_read(task: str, text: str) -> str:
    """Returns a text in the format of the task's reader; text already in that format is unchanged."""
    if task in _ONE_LINE:
        return " ".join(text.split())
    if task == "e2e":
        return _meaning(text.strip())
    if task == "webnlg":  # also a bar and a space before the first triple
        return f" {text.lstrip()}" if text.lstrip().startswith("| ") else text
    return text if task == "dart" else text.strip()


def _meaning(text: str) -> str:
    """Converts `name[X], eatType[pub]` of E2E's CSV files to the format used in training."""
    if not text.endswith("]") or " : " in text:
        return text
    try:
        return e2e.linearise(text)
    except UserError:
        return text
