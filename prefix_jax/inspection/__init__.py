"""Inspection of tuned models: attention to the prefix, changes of next-token predictions, distances between prefixes,
nearest tokens of prompts, and parameter counts of methods.
"""

from prefix_jax.inspection.counting import Parameters, parameters, parameters_by_method
from prefix_jax.inspection.distances import Distance, distances
from prefix_jax.inspection.measure import Findings, measure
from prefix_jax.inspection.observe import Attention, attention
from prefix_jax.inspection.summary import summary, write
from prefix_jax.inspection.words import Place, nearest_words, next_words

__all__ = ["Attention", "Distance", "Findings", "Parameters", "Place", "attention", "distances", "measure",
           "nearest_words", "next_words", "parameters", "parameters_by_method", "summary", "write"]  # fmt: skip
