"""What each method trains and stores, against counts by hand."""

import pytest

from experiments.parameters.__main__ import METHODS, counts

L, E, F, V, P = 24, 1024, 4096, 50257, 1024  # GPT-2 Medium
LAYER = 12 * E * E + 3 * E + E + F + E + 4 * E  # matrices, their biases, two norms
BASE = V * E + P * E + L * LAYER + 2 * E
# What is trained and what is stored, on GPT-2 Medium.
BY_HAND = {
    "prefix 10, direct": (491_520, 491_520),
    "prefix 10 through an MLP of 512": (10 * E + E * 512 + 512 + 512 * 2 * L * E + 2 * L * E, 10 * 2 * L * E),
    "prefix 20 through an MLP of 512": (20 * E + E * 512 + 512 + 512 * 2 * L * E + 2 * L * E, 20 * 2 * L * E),
    "infix 10, direct": (10 * 2 * L * E, 10 * 2 * L * E),
    "prompt 20": (20 * E, 20 * E),
    "prompt 20 through an MLP of 512": (20 * E + E * 512 + 512 + 512 * E + E, 20 * E),
    "prompt 20 through an LSTM of 512": (
        20 * E + 2 * (4 * 512 * (E + 512 + 1)) + 2 * (4 * 512 * (1024 + 512 + 1)) + 1024 * 1024 + 1024 + 1024 * E + E,
        20 * E,
    ),
    "LoRA, rank 8, query and value": (L * 2 * 8 * (E + E),) * 2,
    "LoRA, rank 8, every matrix": (L * 8 * (4 * (E + E) + 2 * (E + F)),) * 2,
    "adapters of 64": (L * 2 * (2 * 64 * E + 64 + E),) * 2,
    "fine-tuning, last 2 layers": (2 * LAYER + 2 * E,) * 2,
    "fine-tuning": (BASE,) * 2,
}


@pytest.mark.parametrize(("title", "method", "options"), METHODS)
def test_counts_on_gpt2_medium(title, method, options):
    assert counts("gpt2-medium", method, options) == (*BY_HAND[title], BASE)


def test_counts_on_models_with_three_sites_and_with_grouped_heads():
    # Encoder self, decoder self and cross; heads times their width are not the model's width here.
    assert (
        counts("flan-t5-small", "prefix", {"prefix.length": 10, "prefix.reparameterisation": "none"})[:2]
        == (3 * 10 * 2 * 8 * 6 * 64,) * 2
    )
    # Two self-attentions and one cross-attention, and two MLPs: adapters of BART-large.
    assert counts("bart-large", "adapter", {})[0] == 12 * 5 * (2 * 64 * 1024 + 64 + 1024)
    # The published size of BART-large, but for the tables of positions that stand for padding.
    assert counts("bart-large", "prompt", {})[2] == pytest.approx(406.3e6, rel=0.001)
