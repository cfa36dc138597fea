"""Repositories with what was tuned: a card, our files, and PEFT's."""

from prefix_jax.sharing.card import Card
from prefix_jax.sharing.publishing import Run, contents, of_run, publish, with_scores

__all__ = ["Card", "Run", "contents", "of_run", "publish", "with_scores"]
