"""Looking inside: where attention goes, what a prefix changes in the next token, how far two prefixes are apart, and
what prompts are near to.
"""

from prefix_jax.inspection.distances import Distance, distances
from prefix_jax.inspection.measure import Findings, measure
from prefix_jax.inspection.observe import Attention, attention
from prefix_jax.inspection.summary import summary
from prefix_jax.inspection.words import Place, nearest_words, next_words

__all__ = ["Attention", "Distance", "Findings", "Place", "attention", "distances", "measure", "nearest_words",
           "next_words", "summary"]  # fmt: skip
