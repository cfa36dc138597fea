"""Looking inside: where attention goes, what a prefix changes in the next token, how far two prefixes are apart, what
prompts are near to, and how many numbers each method trains.
"""

from prefix_jax.inspection.counting import Parameters, parameters, parameters_by_method
from prefix_jax.inspection.distances import Distance, distances
from prefix_jax.inspection.measure import Findings, measure
from prefix_jax.inspection.observe import Attention, attention
from prefix_jax.inspection.summary import summary, write
from prefix_jax.inspection.words import Place, nearest_words, next_words

__all__ = ["Attention", "Distance", "Findings", "Parameters", "Place", "attention", "distances", "measure",
           "nearest_words", "next_words", "parameters", "parameters_by_method", "summary", "write"]  # fmt: skip
