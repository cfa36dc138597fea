"""A source that a person types or a line of a file, in the form that a task's reader gives the sources of its data."""

from prefix_jax.data.readers import e2e
from prefix_jax.errors import UserError

_ONE_LINE = ("xsum", "cnn_dm")


def as_read(task: str, text: str) -> str:
    """Returns a text as the task's reader would give it; what a reader gave comes back as it is."""
    if task in _ONE_LINE:
        return " ".join(text.split())
    if task == "e2e":
        return _meaning(text.strip())
    if task == "webnlg":  # a bar and a space before the first triple too
        return f" {text.lstrip()}" if text.lstrip().startswith("| ") else text
    return text if task == "dart" else text.strip()


def _meaning(text: str) -> str:
    """Returns E2E's `name[X], eatType[pub]`, as its CSV files have it, in the form that is trained on."""
    if not text.endswith("]") or " : " in text:
        return text
    try:
        return e2e.linearise(text)
    except UserError:
        return text
