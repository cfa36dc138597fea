"""The public names of prefix_jax in Python, which `import prefix_jax as pj` offers; see docs/python.md."""

from prefix_jax.api.bank import Bank
from prefix_jax.api.documents import distill
from prefix_jax.api.language_model import LanguageModel
from prefix_jax.api.opening import load, load_model
from prefix_jax.api.pure import hyperparameters, prefix
from prefix_jax.api.results import AttentionMaps, History, Plot, Scores
from prefix_jax.api.tuned import Tuned
from prefix_jax.api.tuning import tune
from prefix_jax.errors import UserError
from prefix_jax.models.prefix import PrefixKV
from prefix_jax.training.loss import loss_sums as loss
from prefix_jax.training.step import initial_state, make_step
from prefix_jax.tuning import Adapter, Finetune, Infix, LoRA, MethodOptions, Prefix, Prompt

__all__ = [
    "Adapter",
    "AttentionMaps",
    "Bank",
    "Finetune",
    "History",
    "Infix",
    "LanguageModel",
    "LoRA",
    "MethodOptions",
    "Plot",
    "Prefix",
    "PrefixKV",
    "Prompt",
    "Scores",
    "Tuned",
    "UserError",
    "distill",
    "hyperparameters",
    "initial_state",
    "load",
    "load_model",
    "loss",
    "make_step",
    "prefix",
    "tune",
]
