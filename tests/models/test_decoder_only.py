"""GPT-2 and the Llama family against transformers, on random weights: logits, and gradients of a prefix.

Every call of a case has the same shapes, so that it is compiled twice: without a prefix, and with one and its gradient.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.errors import UserError
from prefix_jax.models import from_hf
from prefix_jax.models.layers import INTERMEDIATES
from prefix_jax.models.pretrained import causes
from tests.models import torch_models as tm
from tests.models.torch_models import torch

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 50.0,
}
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}
YARN = {
    "rope_type": "yarn", "factor": 4.0, "beta_fast": 2.0, "original_max_position_embeddings": 16, "rope_theta": 30.0,
}  # fmt: skip
SHAPE = dict(
    vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=3, max_position_embeddings=64,
    num_attention_heads=4, num_key_value_heads=2,
)  # fmt: skip
GPTJ = dict(vocab_size=61, n_layer=3, n_embd=24, n_head=2, n_positions=40, rotary_dim=4)
NEOX = dict(
    vocab_size=61, hidden_size=30, intermediate_size=41, num_hidden_layers=3, num_attention_heads=3,
    max_position_embeddings=40,
    rope_parameters={"rope_theta": 90.0, "partial_rotary_factor": 0.4, "rope_type": "default"},
)  # fmt: skip
KINDS = ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]
# The last period is cut.
GEMMA3 = {
    **SHAPE, "num_hidden_layers": 5, "layer_types": KINDS, "head_dim": 6, "sliding_window": 4,
    "query_pre_attn_scalar": 7, "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 300.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
    },
}  # fmt: skip
NEAR = {"layer_types": KINDS[:3], "sliding_window": 4}
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0, 1.5, 2.5], "long_factor": [2.0, 3.0, 4.0], "rope_theta": 50.0,
    "original_max_position_embeddings": 32, "partial_rotary_factor": 0.5,
}  # fmt: skip
# The options of families that are built of the same parts; each has its own name in transformers.
ALIKE = {
    "gemma": ("Gemma", dict(head_dim=10, num_key_value_heads=1)),
    "gemma2": ("Gemma2", dict(
        **NEAR, head_dim=6, query_pre_attn_scalar=7, attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
    )),
    "smollm3": ("SmolLM3", dict(no_rope_layer_interval=2, pad_token_id=0, attention_bias=True, mlp_bias=True)),
    "phi3_longrope": ("Phi3", dict(
        num_attention_heads=2, num_key_value_heads=1, pad_token_id=0, original_max_position_embeddings=32,
        rope_parameters=LONGROPE, sliding_window=5,
    )),
    "phi": ("Phi", dict(rope_parameters={"rope_theta": 50.0, "rope_type": "default", "partial_rotary_factor": 0.7})),
    "olmo2": ("Olmo2", dict(pad_token_id=0)),
    "olmo2_multi_head": ("Olmo2", dict(pad_token_id=0, num_key_value_heads=4)),
    "granite": ("Granite", dict(
        embedding_multiplier=3.0, logits_scaling=2.0, residual_multiplier=0.4, attention_multiplier=0.3,
        attention_bias=True,
    )),
    "starcoder2": ("Starcoder2", dict(sliding_window=5)),
    "stablelm": ("StableLm", dict(num_attention_heads=3, num_key_value_heads=1, use_qkv_bias=True)),
    "stablelm_parallel": ("StableLm", dict(num_attention_heads=3, num_key_value_heads=3, use_parallel_residual=True)),
    "cohere": ("Cohere", dict(logit_scale=0.4)),
    "phi_qk_norm": ("Phi", dict(
        qk_layernorm=True, rope_parameters={"rope_theta": 50.0, "rope_type": "default", "partial_rotary_factor": 0.7},
    )),
    "stablelm_qk_norm": ("StableLm", dict(num_attention_heads=3, num_key_value_heads=1, qk_layernorm=True)),
    "cohere_qk_norm": ("Cohere", dict(use_qk_norm=True)),
    "glm4": ("Glm4", dict(head_dim=8, pad_token_id=0, eos_token_id=1)),
    "nemotron": ("Nemotron", dict(head_dim=8, mlp_bias=True)),
    "mixtral": ("Mixtral", dict(num_local_experts=5, num_experts_per_tok=2)),
    "qwen2_moe": ("Qwen2Moe", dict(
        num_experts=5, num_experts_per_tok=3, moe_intermediate_size=9, shared_expert_intermediate_size=11,
    )),
    "qwen3_moe": ("Qwen3Moe", dict(
        num_experts=6, num_experts_per_tok=2, moe_intermediate_size=7, norm_topk_prob=True, head_dim=10,
    )),
    "gpt_oss": ("GptOss", dict(
        num_local_experts=5, num_experts_per_tok=2, head_dim=6, sliding_window=4, rope_parameters=YARN,
        swiglu_limit=0.5,
    )),
}  # fmt: skip


def _alike(name):
    kind, options = ALIKE[name]
    return lambda: tm.decoder_only(kind, **{**SHAPE, **options})


CASES = {
    "gpt2": lambda: tm.gpt2(),
    "gpt2_untied_inner": lambda: tm.gpt2(tie_word_embeddings=False, n_inner=28),
    "llama_tied_grouped": lambda: tm.llama(tie_word_embeddings=True),
    "llama_head_dim": lambda: tm.llama(head_dim=10, num_attention_heads=6, num_key_value_heads=3, rms_norm_eps=1e-5),
    "llama3_rope_one_kv_head": lambda: tm.llama(head_dim=16, num_key_value_heads=1, rope_parameters=LLAMA3),
    "llama_biases_yarn": lambda: tm.decoder_only(
        "Llama", **SHAPE, attention_bias=True, mlp_bias=True, rope_parameters=YARN
    ),
    "qwen2_bias_linear_rope": lambda: tm.llama("Qwen2", tie_word_embeddings=True, rope_parameters=LINEAR),
    "qwen2_window": lambda: tm.llama("Qwen2", use_sliding_window=True, sliding_window=3, max_window_layers=0),
    "mistral_window_multi_head": lambda: tm.llama("Mistral", sliding_window=4, head_dim=6, num_key_value_heads=4),
    "qwen2_windows_in_some_layers": lambda: tm.llama(
        "Qwen2", use_sliding_window=True, sliding_window=3, max_window_layers=1
    ),
    "gptj": lambda: tm.decoder_only("GPTJ", **GPTJ),
    "gptj_whole_heads": lambda: tm.decoder_only("GPTJ", **{**GPTJ, "rotary_dim": 24, "n_head": 1, "n_inner": 30}),
    "qwen3": lambda: tm.decoder_only("Qwen3", **SHAPE, head_dim=10, tie_word_embeddings=True),
    "qwen3_windows_in_some_layers": lambda: tm.decoder_only(
        "Qwen3", **SHAPE, head_dim=6, use_sliding_window=True, sliding_window=4, max_window_layers=2
    ),
    "gemma3": lambda: tm.decoder_only("Gemma3", **GEMMA3),
    "gemma3_whole_periods": lambda: tm.decoder_only(
        "Gemma3", **{**GEMMA3, "num_hidden_layers": 4, "layer_types": KINDS[:4]}
    ),
    **{name: _alike(name) for name in ALIKE},
}
# Its dropout of attention is a number, not a module that tests set to 0.
BIGCODE = dict(vocab_size=61, n_layer=3, n_embd=30, n_head=5, n_positions=40, attn_pdrop=0.0)
CASES |= {
    "gpt_bigcode": lambda: tm.decoder_only("GPTBigCode", **BIGCODE),
    "gpt_bigcode_multi_head": lambda: tm.decoder_only(
        "GPTBigCode", **BIGCODE, multi_query=False, n_inner=41, scale_attn_weights=False, activation_function="gelu"
    ),
    "gpt_neox": lambda: tm.decoder_only("GPTNeoX", **NEOX),
    "gpt_neox_serial": lambda: tm.decoder_only(
        "GPTNeoX", **NEOX, use_parallel_residual=False, attention_bias=False, hidden_act="gelu_new"
    ),
}
NEO = dict(
    vocab_size=61, num_layers=3, hidden_size=30, num_heads=5, max_position_embeddings=40, window_size=4,
    attention_types=[[["local", "global"], 1], [["local"], 1]],
)  # fmt: skip
OPT = dict(
    vocab_size=61, hidden_size=30, num_hidden_layers=3, num_attention_heads=5, ffn_dim=41, max_position_embeddings=40,
    word_embed_proj_dim=30, dropout=0.0,
)  # fmt: skip
CODEGEN = dict(vocab_size=61, n_layer=3, n_embd=48, n_head=8, n_positions=40, rotary_dim=4)
CASES |= {
    "gpt_neo": lambda: tm.decoder_only("GPTNeo", **NEO),
    "gpt_neo_inner": lambda: tm.decoder_only(
        "GPTNeo", **{**NEO, "attention_types": [[["global"], 3]]}, intermediate_size=41, activation_function="relu"
    ),
    "opt": lambda: tm.decoder_only("OPT", **OPT),
    "opt_norms_after_narrow": lambda: tm.decoder_only(
        "OPT", **{**OPT, "word_embed_proj_dim": 18}, do_layer_norm_before=False
    ),
    "opt_no_biases_no_final_norm": lambda: tm.decoder_only(
        "OPT", **OPT, enable_bias=False, _remove_final_layer_norm=True, activation_function="gelu",
        tie_word_embeddings=False,
    ),
    "codegen": lambda: tm.decoder_only("CodeGen", **CODEGEN),
}  # fmt: skip
# As many heads as are no power of two.
BLOOM = dict(vocab_size=61, n_layer=3, hidden_size=30, n_head=5, pad_token_id=0)
MPT = dict(vocab_size=61, n_layers=3, d_model=30, n_heads=5, max_seq_len=40)
FALCON = dict(
    vocab_size=61, num_hidden_layers=3, hidden_size=48, num_attention_heads=6, max_position_embeddings=40,
    rope_parameters={"rope_theta": 90.0, "rope_type": "default"},
)  # fmt: skip
# transformers' eager attention adds the biases of ALiBi twice.
RW = dict(alibi=True, bias=True, multi_query=False, parallel_attn=False, attn_implementation="sdpa")
CASES |= {
    "bloom": lambda: tm.decoder_only("Bloom", **BLOOM),
    "bloom_even_heads": lambda: tm.decoder_only("Bloom", **{**BLOOM, "n_head": 2}, tie_word_embeddings=False),
    "mpt": lambda: tm.decoder_only("Mpt", **MPT),
    "mpt_clip_scale": lambda: tm.decoder_only(
        "Mpt", **{**MPT, "n_heads": 2}, attn_config=dict(clip_qkv=0.7, softmax_scale=0.4)
    ),
    "falcon_7b": lambda: tm.decoder_only("Falcon", **FALCON),
    "falcon_40b": lambda: tm.decoder_only("Falcon", **FALCON, new_decoder_architecture=True, num_kv_heads=2),
    "falcon_11b": lambda: tm.decoder_only(
        "Falcon", **FALCON, new_decoder_architecture=True, num_kv_heads=3, num_ln_in_parallel_attn=1,
        ffn_hidden_size=41, activation="relu", tie_word_embeddings=False,
    ),
    # Some slopes of 12 heads are no powers of two, and rounded.
    "falcon_rw": lambda: tm.decoder_only("Falcon", **{**FALCON, "num_attention_heads": 12}, **RW),
    "falcon_one_key_head_alibi": lambda: tm.decoder_only("Falcon", **FALCON, **{**RW, "multi_query": True}),
}  # fmt: skip
ROWS, COLUMNS, LENGTH = 3, 12, 5
TOLERANCE = 2e-5


class Calls:
    """A case's compiled calls."""

    def __init__(self, pair):
        self.pair = pair
        self.prefix = tm.random_prefix(pair.model_config, LENGTH)
        self.plain = tm.jit(lambda tokens, segments: pair.model.apply(pair.variables, tokens, segment_ids=segments))

        @tm.jit
        def step(trained, tokens, segments, cotangent):
            def loss(trained):
                prefix = tm.with_leaves(self.prefix, trained)
                logits = pair.model.apply(pair.variables, tokens, segment_ids=segments, prefix=prefix)
                return (logits * cotangent).sum(), logits

            return jax.grad(loss, has_aux=True)(trained)

        self.step = step

    def prefixed(self, tokens, segments, cotangent=None):
        cotangent = np.zeros((ROWS, COLUMNS, 61), np.float32) if cotangent is None else cotangent
        gradients, logits = self.step(tm.differentiable(self.prefix), tokens, segments, cotangent)
        return gradients, np.asarray(logits)

    def torch_prefixed(self, tokens, segments, positions):
        """Torch's logits with the prefix as `past_key_values`, and the leaves they depend on."""
        leaves, config = tm.leaves_of(self.prefix), self.pair.model_config
        if config.alibi is not None:
            return self._torch_rows(tokens, segments, leaves), leaves
        times = config.cached_heads // config.kv_heads
        with tm.open_windows(self.pair.torch, LENGTH):
            out = self.pair.torch(
                torch.tensor(tokens),
                attention_mask=tm.masks(self.pair.model_config, segments, LENGTH),
                position_ids=torch.tensor(positions) + LENGTH,
                past_key_values=tm.cache_of(leaves, len(tokens), times),
            )
        return out.logits, leaves

    def _torch_rows(self, tokens, mask, leaves):
        """Each row alone, without its padding, with which transformers' ALiBi counts distances to a cache otherwise."""
        found = torch.zeros(*tokens.shape, 61)
        for row, seen in enumerate(mask):
            columns = np.flatnonzero(seen)
            cache, own = tm.cache_of(leaves, 1), torch.tensor(tokens[row : row + 1, columns])
            ones = torch.ones(1, LENGTH + len(columns), dtype=torch.long)
            found[row, columns] = self.pair.torch(own, attention_mask=ones, past_key_values=cache).logits[0]
        return found


@pytest.fixture(scope="module", params=CASES)
def calls(request):
    return Calls(CASES[request.param]())


def _tokens(seed=0, rows=ROWS, columns=COLUMNS):
    return np.random.default_rng(seed).integers(0, 61, (rows, columns))


def _padding(side):
    """A mask whose rows have 0, 3 and 7 pads, and the positions of the real tokens."""
    mask = np.ones((ROWS, COLUMNS), int)
    for row, pads in enumerate((0, 3, 7) if side != "none" else ()):
        mask[row, slice(COLUMNS - pads, None) if side == "right" else slice(0, pads)] = 0
    return mask, np.maximum(mask.cumsum(1) - 1, 0)


def _close(found, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("side", ["none", "right", "left"])
def test_trap_22_padding_parity(calls, side):
    """Logits without a prefix; transformers makes its own masks here, its sliding window included."""
    tokens, (mask, positions) = _tokens(), _padding(side)
    out = calls.pair.torch(
        torch.tensor(tokens), attention_mask=torch.tensor(mask), position_ids=torch.tensor(positions)
    )
    _close(np.asarray(calls.plain(tokens, mask))[mask == 1], out.logits.numpy()[mask == 1])


@pytest.mark.parametrize("side", ["none", "right", "left"])
def test_prefix_gradients_parity(calls, side):
    """Logits and gradients with a prefix, with and without padded rows."""
    tokens, (mask, positions) = _tokens(), _padding(side)
    cotangent = np.random.default_rng(1).standard_normal((ROWS, COLUMNS, 61), np.float32) * mask[..., None]
    expected, leaves = calls.torch_prefixed(tokens, mask, positions)
    (expected * torch.tensor(cotangent)).sum().backward()
    gradients, logits = calls.prefixed(tokens, mask, cotangent.astype(np.float32))
    _close(logits[mask == 1], expected.detach().numpy()[mask == 1])
    tm.assert_gradients(gradients, leaves, 1e-4)


def test_packed_rows_parity(calls):
    """Sequences packed in a row (with padding) equal the same sequences in rows of their own, here and in torch."""
    lengths = (6, 4)
    alone = np.zeros((ROWS, COLUMNS), int)
    own = np.zeros((ROWS, COLUMNS), int)
    packed, segments = _tokens(3), np.zeros((ROWS, COLUMNS), int)
    for row, length in enumerate(lengths):
        alone[row, :length], own[row, :length] = _tokens(row, 1, length)[0], 1
    packed[0, :10] = np.concatenate([alone[0, :6], alone[1, :4]])
    segments[0, :10] = [1] * 6 + [2] * 4
    together = calls.prefixed(packed, segments)[1][0]
    apart = calls.prefixed(alone, own)[1]
    for row, columns in enumerate((slice(0, 6), slice(6, 10))):
        tokens = packed[:1, columns]
        expected, _ = calls.torch_prefixed(tokens, np.ones_like(tokens), np.arange(tokens.shape[1])[None])
        _close(together[columns], expected.detach().numpy()[0])
        _close(together[columns], apart[row, : lengths[row]], 1e-5)


def test_init_has_the_tree_of_the_weights(calls):
    model = calls.pair.model
    made = jax.eval_shape(lambda k: model.init(k, jnp.zeros((1, 3), int)), jax.random.key(0))["params"]
    shapes = jax.tree.map(lambda leaf: leaf.shape, dict(made))
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, calls.pair.variables["params"])


def test_qwen2_windows_start_at_a_layer():
    """`max_window_layers` layers have none; transformers' default is 28, so that a short model has no window at all."""
    shapes = dict(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=4, num_attention_heads=2)
    qwen2 = dict(model_type="qwen2", **shapes, use_sliding_window=True, sliding_window=16)
    assert from_hf(qwen2).sliding_window is None
    assert from_hf({**qwen2, "max_window_layers": 0}).sliding_window == 16
    assert from_hf({**qwen2, "max_window_layers": 0, "use_sliding_window": False}).sliding_window is None
    some = from_hf({**qwen2, "max_window_layers": 2})
    assert [kind.window for kind in some.layer_pattern] == [None, None, 16, 16]


@pytest.mark.parametrize("name", ["gemma3", "qwen3_windows_in_some_layers", "mistral_window_multi_head"])
def test_trap_10_a_prefix_is_inside_every_window(name):
    """Every query of every layer sees all slots, however far behind it; tokens only inside the layer's window."""
    pair = CASES[name]()
    config, columns = pair.model_config, 30
    prefix = tm.random_prefix(config, LENGTH)
    _, state = pair.model.apply(pair.variables, _tokens(0, 1, columns), prefix=prefix, mutable=[INTERMEDIATES])
    runs = state[INTERMEDIATES]["layers"]
    weights = np.concatenate([np.asarray(runs[start]["attention"]["weights"]) for start in sorted(runs, key=int)])
    assert weights.shape[0] == config.layers and weights.shape[-2:] == (columns, LENGTH + columns)
    assert (weights[..., :LENGTH] > 0).all()
    distance = np.arange(columns)[:, None] - np.arange(columns)
    for layer, kind in zip(weights, config.layer_pattern, strict=True):
        window = columns if kind.window is None else kind.window
        seen = (distance >= 0) & (distance < window)
        assert (layer[..., LENGTH:][..., ~seen] == 0).all() and (layer[..., LENGTH:][..., seen] > 0).all()


def _alibi_of_slots_without_distances(mask, heads, dtype):
    """BLOOM's biases, `[B H, T, P + T]`, where each slot has that of the query's own position."""
    slopes = torch.tensor(from_hf({**BLOOM, "model_type": "bloom", "n_head": heads}).alibi.slopes, dtype=dtype)
    places = (mask[:, LENGTH:].cumsum(1) - 1).clamp(min=0)[:, None, None]
    keys = places.expand(-1, heads, places.shape[-1], -1)
    slots = keys.transpose(-1, -2)[..., :1].expand(-1, -1, -1, LENGTH)
    return (torch.cat([slots, keys], -1) * slopes[:, None, None]).flatten(0, 1)


@pytest.mark.parametrize("side", ["none", "left"])
def test_alibi_leaves_slots_without_a_bias(side):
    """Unless they have distances: every query sees them as near as its own token."""
    calls = Calls(CASES["bloom"]())
    calls.prefix = calls.prefix.replace(distances=False)
    tokens, (mask, _) = _tokens(), _padding(side)
    cotangent = np.random.default_rng(1).standard_normal((ROWS, COLUMNS, 61), np.float32) * mask[..., None]
    gradients, logits = calls.prefixed(tokens, mask, cotangent.astype(np.float32))
    leaves, network = tm.leaves_of(calls.prefix), calls.pair.torch
    network.transformer.build_alibi_tensor = _alibi_of_slots_without_distances
    seen = torch.tensor(np.pad(mask, [(0, 0), (LENGTH, 0)], constant_values=1))
    expected = network(torch.tensor(tokens), attention_mask=seen, past_key_values=tm.cache_of(leaves, ROWS)).logits
    (expected * torch.tensor(cotangent)).sum().backward()
    _close(logits[mask == 1], expected.detach().numpy()[mask == 1])
    tm.assert_gradients(gradients, leaves, 1e-4)


@pytest.mark.parametrize("name", ["mpt", "falcon_rw"])
def test_alibi_of_slots_without_distances_knows_no_offset(name):
    calls = Calls(CASES[name]())
    tokens, mask = _tokens(), np.ones((ROWS, COLUMNS), int)
    placed = calls.prefixed(tokens, mask)[1]
    calls.prefix = calls.prefix.replace(distances=False)
    calls.step.clear_cache()
    plain = calls.prefixed(tokens, mask)[1]
    calls.prefix = calls.prefix.replace(position_offset=jnp.int32(0))
    calls.step.clear_cache()
    _close(calls.prefixed(tokens, mask)[1], plain)
    assert np.abs(placed - plain).max() > 1e-2


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (dict(model_type="gpt_neo", vocab_size=8, num_layers=3, hidden_size=8, num_heads=2), "attention_types"),
        (dict(model_type="opt", layer_norm_elementwise_affine=False), "layer_norm_elementwise_affine"),
        (dict(model_type="codegen", n_layer=1, n_embd=12, n_head=6), "n_head=6"),
        (dict(model_type="bloom", apply_residual_connection_post_layernorm=True), "post_layernorm"),
        (dict(model_type="mpt", attn_config={"qk_ln": True}), "qk_ln"),
        (dict(model_type="mpt", attn_config={"alibi": False}), "alibi"),
        (dict(model_type="mpt", no_bias=False), "no_bias"),
        (dict(model_type="falcon", vocab_size=8, num_hidden_layers=1, hidden_size=8, num_attention_heads=2,
              new_decoder_architecture=True, parallel_attn=False), "parallel_attn"),
        (dict(model_type="falcon", vocab_size=8, num_hidden_layers=1, hidden_size=8, num_attention_heads=2,
              num_ln_in_parallel_attn=2), "num_ln_in_parallel_attn"),
        (dict(model_type="falcon", alibi="yes"), "alibi"),
    ],
)  # fmt: skip
def test_what_no_network_here_computes_is_refused(config, words):
    with pytest.raises(UserError, match=words):
        from_hf(config)


def test_megatron_names_are_told_from_those_of_transformers():
    for name in ("transformer.h.0.self_attention.query_key_value.weight", "h.11.mlp.dense_h_to_4h.bias"):
        causes.refuse_names([name], "the checkpoint")
    for name in (
        "language_model.encoder.layers.0.self_attention.query_key_value.weight",
        "model.decoder.layers.0.mlp.linear_fc1.weight",
        "language_model.embedding.word_embeddings.weight",
    ):
        with pytest.raises(UserError, match="Megatron"):
            causes.refuse_names([name], "the checkpoint")
