"""Known sizes have the number of parameters that was published with their weights."""

import math

import jax
import pytest

from prefix_jax.models import from_hf
from prefix_jax.planning.abstract import base_shapes
from prefix_jax.planning.shapes import KNOWN

PUBLISHED = {
    "smollm2-135m": 134_515_008,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3-8b": 8_030_261_248,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    "gpt-j-6b": 6_050_882_784,
    # The cards' parameters without embeddings, and two embeddings.
    "pythia-70m": 18_915_328 + 2 * 50304 * 512,
    "pythia-160m": 85_056_000 + 2 * 50304 * 768,
    "pythia-410m": 302_311_424 + 2 * 50304 * 1024,
    "pythia-1b": 805_736_448 + 2 * 50304 * 2048,
    "pythia-1.4b": 1_208_602_624 + 2 * 50304 * 2048,
    "pythia-2.8b": 2_517_652_480 + 2 * 50304 * 2560,
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
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "gpt-neo-125m": 125_198_592,
    "gpt-neo-1.3b": 1_315_575_808,
    "gpt-neo-2.7b": 2_651_307_520,
    "opt-125m": 125_239_296,
    "opt-350m": 331_196_416,
    "opt-1.3b": 1_315_758_080,
    "opt-6.7b": 6_658_473_984,
    "codegen-350m": 356_712_448,
    "bloom-560m": 559_214_592,
    "bloom-1b1": 1_065_314_304,
    "bloom-1b7": 1_722_408_960,
    "bloom-3b": 3_002_557_440,
    "bloom-7b1": 7_069_016_064,
    "bloom-176b": 176_247_271_424,
    "mpt-7b": 6_649_286_656,
    # Without the copy of the embeddings that their files hold.
    "falcon-7b": 7_217_189_760 - 65024 * 4544,
    "falcon-40b": 41_835_970_560 - 65024 * 8192,
    "falcon-11b": 11_102_822_400,
    "falcon-rw-1b": 1_311_625_216,
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
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    model_config = from_hf(KNOWN[name])
    shapes = {**base_shapes(model_config, "bfloat16")}
    shapes.pop("logits_bias", None)  # a buffer in transformers
    # OPT's table of positions begins with two rows that none takes, and that are not read.
    skipped = 2 * model_config.d_model if model_config.family == "opt" else 0
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) + skipped == PUBLISHED[name]
