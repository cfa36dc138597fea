"""Known sizes have the number of parameters that was published with their weights."""

import math

import jax
import pytest

from prefix_jax.models import from_hf
from prefix_jax.planning.abstract import base_shapes
from prefix_jax.planning.shapes import KNOWN

PUBLISHED = {
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "smollm3-3b": 3_075_098_624,
    "phi-1.5": 1_418_270_720,
    "phi-2": 2_779_683_840,
    "phi-3-mini-4k": 3_821_079_552,
    "phi-4": 14_659_507_200,
    "olmo-2-1b": 1_484_916_736,
    "olmo-2-7b": 7_298_617_344,
    "starcoder2-3b": 3_030_371_328,
    "starcoder2-7b": 7_173_923_840,
    "stablelm-3b-4e1t": 2_795_443_200,
    "stablelm-2-1.6b": 1_644_515_328,
    "command-r-v01": 34_980_831_232,
    "umt5-small": 306_601_984,
    "umt5-base": 592_043_520,
    "mbart-large-cc25": 610_851_840,
    "mbart-large-50": 610_879_488,
    # Without the tables of sines.
    "pegasus-large": 568_699_904,
    "pegasus-xsum": 568_699_904,
    "opus-mt-en-de": 73_886_208,
    "opus-mt-en-fr": 74_609_664,
    "m2m100-418m": 483_905_536,
    "m2m100-1.2b": 1_239_470_080,
    "nllb-200-distilled-600m": 615_073_792,
    "nllb-200-1.3b": 1_370_638_336,
    "nllb-200-3.3b": 3_344_863_232,
    "blenderbot-400m-distill": 364_802_560,
    "blenderbot-3b": 2_696_268_800,
    "blenderbot-90m": 87_508_992,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    shapes = {**base_shapes(from_hf(KNOWN[name]), "bfloat16")}
    shapes.pop("logits_bias", None)  # a buffer in transformers
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == PUBLISHED[name]
