"""T5 1.0, 1.1 and BART against transformers, on random weights: logits, gradients of a prefix at all three sites."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.models import from_hf
from tests.models import torch_models as tm
from tests.models.torch_models import torch
from tests.parity.cases import CASES as ALL_CASES
from tests.parity.encoder_decoder import TARGET, Calls, inputs

CASES = {name: case for name, case in ALL_CASES.items() if case.encoder_decoder}

TOLERANCE = 2e-5


@pytest.fixture(scope="module", params=CASES)
def calls(request):
    return Calls(CASES[request.param].pair())


def _close(found, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("pads", [(0, 0, 0), (0, 4, 8)])
def test_logits_parity(calls, pads):
    _close(*calls.compare_logits(pads))


@pytest.mark.parametrize("kind", ["all", pytest.param("subsets", id="trap_03_layer_subsets")])
def test_prefix_gradients_parity(calls, kind):
    """All three sites, padded rows; in "subsets" only layer 1 of encoder and cross attention has a prefix."""
    logits, expected, gradients, leaves = calls.gradients(kind)
    _close(logits, expected)
    assert len(leaves) == 6
    tm.assert_gradients(gradients, leaves, 1e-4)


def test_packed_rows_parity(calls):
    """Pairs packed jointly in a row give what the same pairs give in rows of their own, here and in torch."""
    for together, apart, expected in calls.packed():
        _close(together, apart, 1e-5)
        _close(together, expected)


def test_decode_with_caches_parity(calls):
    """The cached calls that decoding makes (encode, cross keys and values, tokens in parts) equal the whole forward."""
    model, prefix = calls.pair.model, calls.prefixes["all"]
    tokens, mask, encoder_tokens, encoder_mask = inputs((0, 4, 8))
    mask = np.ones_like(mask)
    whole = calls.prefixed("all", (tokens, mask, encoder_tokens, encoder_mask))[1]

    @tm.jit
    def start(encoder_tokens, encoder_mask, prefix):
        memory = model.apply(calls.pair.variables, encoder_tokens, encoder_mask, prefix=prefix, method="encode")
        return model.apply(calls.pair.variables, memory, method="cross_key_values")

    cross = start(encoder_tokens, encoder_mask, prefix)
    first = _decode(calls, tokens[:, :5], jnp.arange(5), cross, encoder_mask, ())
    past = tm.Past(first[1].key, first[1].value, jnp.ones((1, 1, 1, 1, 5), bool), jnp.arange(5))
    second = _decode(calls, tokens[:, 5:], jnp.arange(5, TARGET), cross, encoder_mask, (past,))
    _close(np.concatenate([first[0], second[0]], 1), whole, 1e-5)


def _decode(calls, tokens, columns, cross, encoder_mask, past):
    model, prefix = calls.pair.model, calls.prefixes["all"]

    @tm.jit
    def run(tokens, past, prefix):
        hidden, own = model.apply(
            calls.pair.variables, tokens, columns, cross, encoder_mask == 1, prefix, past, method="decode"
        )
        return model.apply(calls.pair.variables, hidden, method="logits"), own

    return run(tokens, past, prefix)


def test_bart_positions_begin_after_the_prefix():
    """Beside torch with its table of decoder positions moved by as many rows."""
    pair, given = tm.bart(), inputs((0, 0, 0))
    calls = Calls(pair)
    calls.prefixes["all"] = calls.prefixes["all"].replace(position_offset=jnp.int32(3))
    table = pair.torch.model.decoder.embed_positions.weight
    with torch.no_grad():
        table[2:-3] = table[5:].clone()
    expected = calls.torch_logits(given, "all")[0].detach().numpy()
    _close(calls.prefixed("all", given)[1], expected)


def test_init_has_the_tree_of_the_weights(calls):
    model, ids = calls.pair.model, jnp.zeros((1, 3), int)
    made = jax.eval_shape(lambda k: model.init(k, ids, encoder_tokens=ids), jax.random.key(0))["params"]
    shapes = jax.tree.map(lambda leaf: leaf.shape, dict(made))
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, calls.pair.variables["params"])


def test_spec_of_hub_and_resaved_configurations():
    """T5 1.1 says `tie_word_embeddings: false` on the hub; transformers 5 saves `scale_decoder_outputs`."""
    config = dict(model_type="t5", vocab_size=8, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=2)
    hub = from_hf({**config, "tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"})
    assert (hub.tie_embeddings, hub.scale_outputs, hub.gated) == (False, False, True)
    again = from_hf({**config, "tie_word_embeddings": False, "scale_decoder_outputs": False})
    assert (again.tie_embeddings, again.scale_outputs) == (False, False)
    old = from_hf(config)
    assert (old.tie_embeddings, old.scale_outputs, old.activation) == (True, True, "relu")
