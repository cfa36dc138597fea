"""T5 1.0, 1.1 and BART against transformers, on random weights: logits, gradients of a prefix at all three sites."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.models import from_hf
from tests.models import torch_models as tm
from tests.models.torch_models import torch

CASES = {
    "t5_relu_tied": lambda: tm.t5(),
    "t5_gated_untied": lambda: tm.t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False, d_kv=5),
    "umt5": lambda: tm.t5("UMT5", feed_forward_proj="gated-gelu", d_kv=5),
    "bart": lambda: tm.bart(),
    "bart_scaled_relu": lambda: tm.bart(scale_embedding=True, activation_function="relu", decoder_ffn_dim=20),
    "mbart": lambda: tm.bart_like("MBart", scale_embedding=True),
    "pegasus": lambda: tm.bart_like("Pegasus", activation_function="relu", scale_embedding=True),
    "marian": lambda: tm.bart_like("Marian", activation_function="swish", pad_token_id=60, decoder_start_token_id=60),
    "m2m_100": lambda: tm.bart_like("M2M100", decoder_ffn_dim=20),
    "m2m_100_odd": lambda: tm.bart_like("M2M100", d_model=15, encoder_attention_heads=3, decoder_attention_heads=3),
    "blenderbot": lambda: tm.bart_like("Blenderbot", scale_embedding=True),
    "blenderbot_small": lambda: tm.bart_like("BlenderbotSmall"),
}
# Of each site, the layers that carry a prefix in the second kind of prefix (None: all).
SUBSETS = {"encoder": (1,), "decoder": None, "cross": (1,)}
ROWS, SOURCE, TARGET, LENGTH = 3, 14, 9, 4
TOLERANCE = 2e-5


class Calls:
    """A case's compiled calls, one without a prefix and one with each kind of prefix."""

    def __init__(self, pair):
        self.pair = pair
        self.prefixes = {
            "all": tm.random_prefix(pair.model_config, LENGTH, offset=0),
            "subsets": tm.random_prefix(pair.model_config, LENGTH, offset=0, layers=SUBSETS),
        }
        self.plain = tm.jit(self._logits)

        @tm.jit
        def step(prefix, inputs, cotangent):
            def loss(trained):
                logits = self._logits(inputs, tm.with_leaves(prefix, trained))
                return (logits * cotangent).sum(), logits

            return jax.grad(loss, has_aux=True)(tm.differentiable(prefix))

        self.step = step

    def _logits(self, inputs, prefix=None):
        tokens, segments, encoder_tokens, encoder_segments = inputs
        return self.pair.model.apply(
            self.pair.variables,
            tokens,
            segment_ids=segments,
            encoder_tokens=encoder_tokens,
            encoder_segment_ids=encoder_segments,
            prefix=prefix,
        )

    def prefixed(self, kind, inputs, cotangent=None):
        cotangent = np.zeros((ROWS, TARGET, 61), np.float32) if cotangent is None else cotangent
        gradients, logits = self.step(self.prefixes[kind], inputs, cotangent)
        return gradients, np.asarray(logits)

    def torch_logits(self, inputs, kind=None):
        """Torch's logits with the prefix concatenated in its own attention, and the leaves they depend on."""
        tokens, mask, encoder_tokens, encoder_mask = (torch.tensor(a) for a in inputs)
        leaves = {} if kind is None else tm.leaves_of(self.prefixes[kind])
        with tm.prefix_in_attention(self.pair.torch, leaves, SUBSETS if kind == "subsets" else {}):
            out = self.pair.torch(
                input_ids=encoder_tokens,
                attention_mask=encoder_mask,
                decoder_input_ids=tokens,
                decoder_attention_mask=mask,
                use_cache=False,
            )
        return out.logits, leaves


@pytest.fixture(scope="module", params=CASES)
def calls(request):
    return Calls(CASES[request.param]())


def _inputs(pads):
    """Random tokens; source rows have `pads` tokens of padding on the right, target rows about half of that."""
    generator = np.random.default_rng(0)
    tokens, encoder_tokens = (generator.integers(2, 61, (ROWS, n)) for n in (TARGET, SOURCE))
    mask, encoder_mask = np.ones_like(tokens), np.ones_like(encoder_tokens)
    for row, count in enumerate(pads):
        mask[row, TARGET - count // 2 :] = 0
        encoder_mask[row, SOURCE - count :] = 0
    return tokens, mask, encoder_tokens, encoder_mask


def _close(found, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("pads", [(0, 0, 0), (0, 4, 8)])
def test_logits_parity(calls, pads):
    inputs = _inputs(pads)
    seen = inputs[1] == 1
    _close(np.asarray(calls.plain(inputs))[seen], calls.torch_logits(inputs)[0].numpy()[seen])


@pytest.mark.parametrize("kind", ["all", pytest.param("subsets", id="trap_03_layer_subsets")])
def test_prefix_gradients_parity(calls, kind):
    """All three sites, padded rows; in "subsets" only layer 1 of encoder and cross attention has a prefix."""
    inputs = _inputs((0, 4, 8))
    seen = inputs[1] == 1
    cotangent = np.random.default_rng(1).standard_normal((ROWS, TARGET, 61), np.float32) * seen[..., None]
    expected, leaves = calls.torch_logits(inputs, kind)
    (expected * torch.tensor(cotangent)).sum().backward()
    gradients, logits = calls.prefixed(kind, inputs, cotangent.astype(np.float32))
    _close(logits[seen], expected.detach().numpy()[seen])
    assert len(leaves) == 6
    tm.assert_gradients(gradients, leaves, 1e-4)


def test_packed_rows_parity(calls):
    """Pairs packed jointly in a row give what the same pairs give in rows of their own, here and in torch."""
    sources, targets = (6, 5), (5, 3)
    alone = tuple(np.zeros((ROWS, n), int) for n in (TARGET, TARGET, SOURCE, SOURCE))
    tokens, mask, encoder_tokens, encoder_mask = _inputs((0, 0, 0))
    packed = (tokens, np.zeros_like(mask), encoder_tokens, np.zeros_like(encoder_mask))
    for row in range(2):
        for side, lengths in ((0, targets), (2, sources)):
            columns = slice(sum(lengths[:row]), sum(lengths[: row + 1]))
            alone[side][row, : lengths[row]] = packed[side][0, columns]
            alone[side + 1][row, : lengths[row]] = 1
            packed[side + 1][0, columns] = row + 1
    together = calls.prefixed("all", packed)[1][0]
    apart = calls.prefixed("all", alone)[1]
    expected = calls.torch_logits(alone, "all")[0].detach().numpy()
    for row, length in enumerate(targets):
        columns = slice(sum(targets[:row]), sum(targets[: row + 1]))
        _close(together[columns], apart[row, :length], 1e-5)
        _close(together[columns], expected[row, :length])


def test_decode_with_caches_parity(calls):
    """The cached calls that decoding makes (encode, cross keys and values, tokens in parts) equal the whole forward."""
    model, prefix = calls.pair.model, calls.prefixes["all"]
    tokens, mask, encoder_tokens, encoder_mask = _inputs((0, 4, 8))
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
    pair, inputs = tm.bart(), _inputs((0, 0, 0))
    calls = Calls(pair)
    calls.prefixes["all"] = calls.prefixes["all"].replace(position_offset=jnp.int32(3))
    table = pair.torch.model.decoder.embed_positions.weight
    with torch.no_grad():
        table[2:-3] = table[5:].clone()
    expected = calls.torch_logits(inputs, "all")[0].detach().numpy()
    _close(calls.prefixed("all", inputs)[1], expected)


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
