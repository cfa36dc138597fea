"""What transformers' `generate` gives for the same network, inputs and options."""

from typing import Any, NamedTuple

import jax
import numpy as np

from prefix_jax.decoding import GenerationConfig, make_inputs
from prefix_jax.decoding import generate as generate_here
from tests.models import torch_models as tm
from tests.models.torch_models import torch
from tests.parity.cases import CASES, END, PAD

torch.set_num_threads(1)  # more only get in each other's way on networks this small

MARGIN = 1e-4
# After a pad token transformers' M2M-100 has no position; Marian's models ban it.
BANS = {case: dict(banned_tokens=(PAD,)) for case in ("m2m_100", "marian")}


class Written(NamedTuple):
    """Of several rows: how many differ, were compared (first and second choice being apart), are there, and ended."""

    differ: int
    compared: int
    total: int
    ended: int


class Scored(NamedTuple):
    """Of several rows: the largest difference of scores, how many have the same tokens, are there, and ended."""

    difference: float
    same: int
    total: int
    ended: int


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


def ours(pair: tm.Pair, token_lists: list[list[int]], options: GenerationConfig) -> tuple[list[list[int]], np.ndarray]:
    """The tokens that we write, and the scores; one row of the batch is empty."""
    inputs = make_inputs(token_lists, 11, len(token_lists) + 1, range(len(token_lists)))
    found = jax.device_get(generate_here(pair.model, pair.variables, None, inputs, options))
    assert found.lengths[-1] == 0 and (found.tokens[-1] == pair.model_config.pad_id).all()
    rows = [found.tokens[row, : found.lengths[row]].tolist() for row in range(len(token_lists))]
    return rows, found.scores[:-1]


def greedy(case: str, changes: dict[str, Any], seeds: Any) -> Written:
    options = GenerationConfig(strategy="greedy", **{"max_length": 16, **changes})
    differ, compared, total, ended = 0, 0, 0, 0
    for seed in seeds:
        pair, token_lists = network(case, seed), prompts(6, seed)
        expected = generate(pair.torch, token_lists, options, pair.model_config.is_encoder_decoder)
        found, _ = ours(pair, token_lists, options)
        apart = expected.margins > MARGIN
        wrong = [mine != theirs for mine, theirs in zip(found, expected.tokens, strict=True)]
        differ += int((apart & np.array(wrong)).sum())
        compared += int(apart.sum())
        total += len(found)
        ended += sum(len(mine) < options.max_length for mine in found)
    return Written(differ, compared, total, ended)


def beam(case: str, options: GenerationConfig, seeds: Any) -> Scored:
    worst, same, total, ended = 0.0, 0, 0, 0
    for seed in seeds:
        pair, token_lists = network(case, seed), prompts(6, seed + 10)
        expected = generate(pair.torch, token_lists, options, pair.model_config.is_encoder_decoder)
        found, scores = ours(pair, token_lists, options)
        worst = max(worst, float(np.abs(scores - expected.scores).max()))
        total += len(found)
        same += sum(mine == theirs for mine, theirs in zip(found, expected.tokens, strict=True))
        ended += sum(len(mine) < options.max_length for mine in found)
    return Scored(worst, same, total, ended)
