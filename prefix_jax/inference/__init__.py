"""Use of a tuned model: text generation for sources, and the scores of a split."""

from prefix_jax.inference.answering import likelihoods, outputs, unanswered
from prefix_jax.inference.banked import Answer, TunedBank
from prefix_jax.inference.generation import write_texts
from prefix_jax.inference.opening import (
    Tuned,
    configured,
    located,
    merged,
    of_model,
    open_configured,
    open_several,
    open_tuned,
    with_merged_lora,
)
from prefix_jax.inference.scoring import evaluate, evaluate_opened
from prefix_jax.workdir import read_samples

__all__ = [
    "Answer",
    "Tuned",
    "TunedBank",
    "configured",
    "evaluate",
    "evaluate_opened",
    "likelihoods",
    "located",
    "merged",
    "of_model",
    "open_configured",
    "open_several",
    "open_tuned",
    "outputs",
    "read_samples",
    "unanswered",
    "with_merged_lora",
    "write_texts",
]
