"""What transformers' `generate` gives for the same network, inputs and options."""

from typing import Any, NamedTuple

import numpy as np

from prefix_jax.decoding import GenerationConfig
from tests.models import torch_models as tm
from tests.models.torch_models import torch
from tests.parity.cases import CASES, END, PAD

torch.set_num_threads(1)  # more only get in each other's way on networks this small


class Expected(NamedTuple):
    """Per input: new tokens with the end token, the score (beam), the least margin of first over second (greedy)."""

    tokens: list[list[int]]
    scores: np.ndarray | None
    margins: np.ndarray | None


def network(case: str, seed: int = 0, scale: float = 1.6) -> tm.Pair:
    """The small network of a case whose logits are spread wide, and whose end token does come up."""
    pair = CASES[case].decoding_pair()
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
