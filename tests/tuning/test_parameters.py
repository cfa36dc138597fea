"""What each method trains and stores, against counts by hand."""

import pytest

from prefix_jax.inspection.counting import parameters, parameters_by_length, parameters_by_method, size_of_share
from prefix_jax.planning.shapes import spec_of
from prefix_jax.tuning import METHODS

L, E, F, V, P = 24, 1024, 4096, 50257, 1024  # GPT-2 Medium
LAYER = 12 * E * E + 3 * E + E + F + E + 4 * E  # matrices, their biases, two norms
BASE = V * E + P * E + L * LAYER + 2 * E


# What is trained and what is stored, on GPT-2 Medium.
def adapters(width: int) -> int:
    return L * 2 * (2 * width * E + width + E)


BY_HAND = {
    "prefix 10, direct": (491_520, 491_520),
    "prefix 10, direct, keys alone": (245_760, 491_520),
    "prefix 10, direct, values alone": (245_760, 491_520),
    "prefix 10, direct, with a gate": (491_520 + 24 * 16 * 10,) * 2,  # a bias for each layer, head and slot
    "prefix 10 through an MLP of 512": (10 * E + E * 512 + 512 + 512 * 2 * L * E + 2 * L * E, 10 * 2 * L * E),
    "prefix 20 through an MLP of 512": (20 * E + E * 512 + 512 + 512 * 2 * L * E + 2 * L * E, 20 * 2 * L * E),
    "prefix 20 through an MLP of 512, embedding of 512": (
        20 * 512 + 512 * 512 + 512 + 512 * 2 * L * E + 2 * L * E,
        20 * 2 * L * E,
    ),
    "infix 10, direct": (10 * 2 * L * E, 10 * 2 * L * E),
    "prompt 20": (20 * E, 20 * E),
    "prompt 20 through an MLP of 512": (20 * E + E * 512 + 512 + 512 * E + E, 20 * E),
    "prompt 20 through an LSTM of 512": (
        20 * E + 2 * (4 * 512 * (E + 512 + 1)) + 2 * (4 * 512 * (1024 + 512 + 1)) + 1024 * 1024 + 1024 + 1024 * E + E,
        20 * E,
    ),
    "LoRA, rank 8, query and value": (L * 2 * 8 * (E + E),) * 2,
    "LoRA, rank 8, every matrix": (L * 8 * (4 * (E + E) + 2 * (E + F)),) * 2,
    "prefix 10, direct, and LoRA, rank 8": (491_520 + L * 2 * 8 * (E + E),) * 2,
    "adapters, 0.1 %": (adapters(3),) * 2,
    "adapters, 3 %": (adapters(108),) * 2,
    "fine-tuning, last 2 layers": (2 * LAYER + 2 * E,) * 2,
    "fine-tuning": (BASE,) * 2,
}


def test_counts_on_gpt2_medium():
    found = parameters_by_method(spec_of("gpt2-medium"))
    assert found == {title: (*counts, BASE) for title, counts in BY_HAND.items()}
    assert list(found) == list(BY_HAND)


def test_counts_on_models_with_three_sites_and_with_grouped_heads():
    # Encoder self, decoder self and cross; heads times their width are not the model's width here.
    assert (
        parameters(spec_of("flan-t5-small"), "prefix", {"prefix.length": 10, "prefix.reparameterisation": "none"})[:2]
        == (3 * 10 * 2 * 8 * 6 * 64,) * 2
    )
    # Two self-attentions and one cross-attention, and two MLPs: adapters of BART-large.
    assert parameters(spec_of("bart-large"), "adapter", {})[0] == 12 * 5 * (2 * 64 * 1024 + 64 + 1024)
    # The published size of BART-large, but for the tables of positions that stand for padding.
    assert parameters(spec_of("bart-large"), "prompt", {})[2] == pytest.approx(406.3e6, rel=0.001)


def test_the_counts_that_the_authors_code_gives():
    """GPT-2 small, prefix 20, an MLP of 512: with an embedding of the model's width, as they have it, and of 512."""
    model_config = spec_of("gpt2")
    assert parameters(model_config, "prefix", {"prefix.length": 20})[:2] == (9_864_704, 368_640)
    assert parameters(model_config, "prefix", {"prefix.length": 20, "prefix.embedding": 512})[:2] == (
        9_728_512,
        368_640,
    )


@pytest.mark.parametrize("model", ["gpt2-medium", "flan-t5-small", "bart-large", "llama-2-7b"])
def test_adapters_are_as_near_to_their_share_as_a_width_can_be(model):
    model_config = spec_of(model)
    for share in (0.1, 3.0):
        width = size_of_share(model_config, METHODS["adapter"], share)
        near, *others = (
            abs(100 * parameters(model_config, "adapter", {"adapter.width": max(1, w)}).share - share)
            for w in (width, width - 1, width + 1)
        )
        assert near <= min(others)


def test_lengths_end_at_the_window():
    assert parameters_by_length(spec_of("gpt2"))["length"][-1] == 500
