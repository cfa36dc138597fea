"""What transformers' `generate` gives for the same network, inputs and options."""

from typing import Any, NamedTuple

import numpy as np
import torch_models as tm
from torch_models import torch

from prefix_jax.decoding import GenerationConfig

PAD, END = 0, 1
torch.set_num_threads(1)  # more only get in each other's way on networks this small
_IDS = dict(pad_token_id=PAD, eos_token_id=END)
_KINDS = ["sliding_attention", "full_attention", "sliding_attention"]
_SHAPE = dict(
    vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=3, max_position_embeddings=64,
    num_attention_heads=4, num_key_value_heads=2, bos_token_id=2, **_IDS,
)  # fmt: skip
FAMILIES = {
    "gpt2": lambda: tm.gpt2(bos_token_id=END, **_IDS),
    "llama": lambda: tm.llama(bos_token_id=2, tie_word_embeddings=False, **_IDS),
    "mistral_window": lambda: tm.llama("Mistral", sliding_window=5, bos_token_id=2, **_IDS),
    "gptj": lambda: tm.decoder_only(
        "GPTJ", vocab_size=61, n_layer=3, n_embd=24, n_head=2, n_positions=40, rotary_dim=4, bos_token_id=2, **_IDS
    ),
    "qwen3": lambda: tm.decoder_only("Qwen3", **_SHAPE, head_dim=10, tie_word_embeddings=True),
    # Of some rows, the sliding layers no longer see the prompt at the end.
    "gemma3": lambda: tm.decoder_only(
        "Gemma3", **_SHAPE, head_dim=6, sliding_window=5, layer_types=_KINDS, tie_word_embeddings=False
    ),
    # A window, soft caps, layers without positions, and a layer with one norm.
    "gemma2": lambda: tm.decoder_only(
        "Gemma2",
        **_SHAPE,
        head_dim=6,
        sliding_window=5,
        layer_types=_KINDS,
        tie_word_embeddings=False,
        attn_logit_softcapping=5.0,
    ),
    "phi3": lambda: tm.decoder_only("Phi3", **_SHAPE, sliding_window=5),
    "smollm3": lambda: tm.decoder_only("SmolLM3", **_SHAPE, no_rope_layer_interval=2, tie_word_embeddings=False),
    "cohere": lambda: tm.decoder_only("Cohere", **_SHAPE, tie_word_embeddings=False, logit_scale=1.0),
    "qwen2_moe": lambda: tm.decoder_only(
        "Qwen2Moe",
        **_SHAPE,
        num_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=9,
        shared_expert_intermediate_size=11,
        tie_word_embeddings=False,
    ),
    "gpt_oss": lambda: tm.decoder_only(
        "GptOss",
        **_SHAPE,
        head_dim=6,
        num_local_experts=5,
        num_experts_per_tok=2,
        sliding_window=5,
        tie_word_embeddings=False,
    ),
    "gpt_bigcode": lambda: tm.decoder_only(
        "GPTBigCode", vocab_size=61, n_layer=3, n_embd=30, n_head=5, n_positions=40, bos_token_id=2, **_IDS
    ),
    "gpt_neox": lambda: tm.decoder_only(
        "GPTNeoX",
        vocab_size=61,
        num_hidden_layers=3,
        hidden_size=24,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=64,
        bos_token_id=2,
        **_IDS,
    ),
    "gpt_neo": lambda: tm.decoder_only(
        "GPTNeo",
        vocab_size=61,
        num_layers=3,
        hidden_size=30,
        num_heads=5,
        max_position_embeddings=64,
        window_size=5,
        attention_types=[[["local", "global"], 1], [["local"], 1]],
        bos_token_id=2,
        **_IDS,
    ),
    "opt": lambda: tm.decoder_only(
        "OPT",
        vocab_size=61,
        hidden_size=30,
        num_hidden_layers=3,
        num_attention_heads=5,
        ffn_dim=41,
        max_position_embeddings=64,
        word_embed_proj_dim=18,
        do_layer_norm_before=False,
        bos_token_id=2,
        **_IDS,
    ),
    "codegen": lambda: tm.decoder_only(
        "CodeGen", vocab_size=61, n_layer=3, n_embd=48, n_head=8, n_positions=64, rotary_dim=4, bos_token_id=2, **_IDS
    ),
    "bloom": lambda: tm.decoder_only("Bloom", vocab_size=61, n_layer=3, hidden_size=30, n_head=5, **_IDS),
    "mpt": lambda: tm.decoder_only("Mpt", vocab_size=61, n_layers=3, d_model=30, n_heads=5, max_seq_len=40, **_IDS),
    "falcon_40b": lambda: tm.decoder_only(
        "Falcon",
        vocab_size=61,
        num_hidden_layers=3,
        hidden_size=48,
        num_attention_heads=6,
        num_kv_heads=2,
        new_decoder_architecture=True,
        **_IDS,
    ),
    "falcon_rw": lambda: tm.decoder_only(
        "Falcon",
        vocab_size=61,
        num_hidden_layers=3,
        hidden_size=48,
        num_attention_heads=6,
        alibi=True,
        bias=True,
        multi_query=False,
        parallel_attn=False,
        attn_implementation="sdpa",
        **_IDS,
    ),
    "t5": lambda: tm.t5(decoder_start_token_id=PAD, **_IDS),
    "t5_gated": lambda: tm.t5(
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=PAD, **_IDS
    ),
    "umt5": lambda: tm.t5("UMT5", feed_forward_proj="gated-gelu", decoder_start_token_id=PAD, **_IDS),
    **{
        name: lambda kind=kind, name=name: tm.bart_like(
            kind,
            decoder_start_token_id=PAD if name in ("marian", "pegasus") else 2,
            forced_eos_token_id=None,
            encoder_no_repeat_ngram_size=0,
            **({"activation_function": "swish"} if name == "marian" else {}),
            # With one matrix for both, these networks write the same token for ever.
            tie_word_embeddings=name not in ("marian", "m2m_100", "blenderbot-small"),
            **_IDS,
        )
        for name, kind in tm.BART_LIKE.items()
    },
}


class Expected(NamedTuple):
    """Per input: new tokens with the end token, the score (beam), the least margin of first over second (greedy)."""

    tokens: list[list[int]]
    scores: np.ndarray | None
    margins: np.ndarray | None


def network(family: str, seed: int = 0, scale: float = 1.6) -> tm.Pair:
    """A small network of the family whose logits are spread wide, and whose end token does come up."""
    pair = FAMILIES[family]()
    tm._random(pair.torch, seed)
    with torch.no_grad():
        for parameter in tm.drawn(pair.torch).values():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    _rename(pair, _frequent(pair, seed))
    return tm.Pair(pair.torch, pair.model, {"params": tm.tree_of(pair.torch, pair.model_config)})


def _rename(pair: tm.Pair, token: int) -> None:
    """Exchanges a token's rows and those of the end token: the end token stays the same number for every seed."""
    tables = {id(table): table for table in (pair.torch.get_input_embeddings(), pair.torch.get_output_embeddings())}
    tied = pair.torch.get_input_embeddings().weight is pair.torch.get_output_embeddings().weight
    with torch.no_grad():
        for table in list(tables.values())[: 1 if tied else 2]:
            table.weight[[END, token]] = table.weight[[token, END]]
        head = getattr(pair.torch.get_output_embeddings(), "bias", None)
        for bias in (getattr(pair.torch, "final_logits_bias", None), None if head is None else head[None]):
            if bias is not None:
                bias[:, [END, token]] = bias[:, [token, END]]
    pair.torch.generation_config.eos_token_id = END


def _frequent(pair: tm.Pair, seed: int) -> int:
    """A token that the network likes to write, but not at once: most used as the end token, it ends some rows."""
    pair.torch.generation_config.eos_token_id = None
    options = GenerationConfig(strategy="greedy", max_length=9)
    rows = generate(pair.torch, prompts(12, seed + 100), options, pair.model_config.is_encoder_decoder).tokens
    found = [set(row[3:]) - set(row[:2]) - {PAD} for row in rows]
    return max(range(2, pair.model_config.vocab_size), key=lambda token: sum(token in row for row in found))


def prompts(count: int, seed: int, longest: int = 9, vocab_size: int = 61) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, longest + 1, count)
    return [generator.integers(2, vocab_size, length).tolist() for length in lengths]


def generate(network: Any, token_lists: list[list[int]], options: GenerationConfig, encoder: bool) -> Expected:
    """All inputs in one batch, padded on the side that the family wants.

    Transformers counts the padding before a prompt as n-grams; callers ban the pad token where that would show.
    """
    width = max(map(len, token_lists))
    tokens = np.full((len(token_lists), width), PAD)
    mask = np.zeros_like(tokens)
    for row, ids in enumerate(token_lists):
        place = slice(0, len(ids)) if encoder else slice(width - len(ids), width)
        tokens[row, place], mask[row, place] = ids, 1
    settings = dict(
        num_beams=options.width,
        do_sample=False,
        max_new_tokens=options.max_length,
        min_new_tokens=options.min_length or None,
        length_penalty=options.length_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram or None,
        suppress_tokens=list(options.banned_tokens) or None,
        early_stopping=False,
        forced_bos_token_id=options.forced_bos,
        forced_eos_token_id=list(options.forced_eos) or None,
        bad_words_ids=[list(sequence) for sequence in options.banned_sequences] or None,
    )
    if options.width == 1:
        settings.pop("length_penalty"), settings.pop("early_stopping")
    out = network.generate(
        input_ids=torch.tensor(tokens),
        attention_mask=torch.tensor(mask),
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    ids = out.sequences.numpy()[:, 1 if encoder else width :]
    lists = [_until_end(row, network.generation_config.eos_token_id) for row in ids.tolist()]
    if options.width > 1:
        return Expected(lists, out.sequences_scores.numpy(), None)
    top = np.stack([torch.topk(step, 2).values.numpy() for step in out.scores], axis=1)
    gaps = top[..., 0] - top[..., 1]
    return Expected(lists, None, np.array([gap[: len(row)].min() for gap, row in zip(gaps, lists, strict=True)]))


def _until_end(row: list[int], end: Any) -> list[int]:
    return row[: row.index(end) + 1] if end in row else row
