"""Token ids of choices: continuations of a prompt, cut from it as in training or as evaluation harnesses do."""

from collections.abc import Sequence
from typing import Any

from prefix_jax.data.tokens import Formats, encoded_texts, pieces, sources_and_lengths, tokenise_targets

BOUNDARIES = ("trained", "joined")


def trained(choices: Sequence[Sequence[str]], tokenizer: Any, formats: Formats) -> list[list[list[int]]]:
    """Returns the choices' ids as those of targets in training: on their own, with what the target format adds."""
    flat = tokenise_targets([text for own in choices for text in own], tokenizer, formats.target)
    return _regrouped([flat[i].tolist() for i in range(len(flat.offsets) - 1)], choices)


def joined(
    sources: Sequence[str], choices: Sequence[Sequence[str]], tokenizer: Any, formats: Formats, limit: int
) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Returns the ids of prompts and of their choices by the convention of lm-evaluation-harness.

    Prompt and choice are tokenised together and split after the number of tokens that the prompt has alone. White space
    that ends a prompt belongs to the choices, and no end token follows them. A prompt that ends in a special token, and
    one that is longer than `limit`, are not joined.
    """
    source, target = pieces(formats.source, "source", tokenizer), pieces(formats.target, "target", tokenizer)
    ragged, whole = sources_and_lengths(sources, tokenizer, formats.source, limit)
    apart = bool(source.ids.after or target.ids.before)
    contexts, suffixes, cut = [], [], []
    for text, length in zip(sources, whole, strict=True):
        context = f"{source.left}{text}{source.right}"
        stripped = context if apart or length > limit else context.rstrip()
        cut.append(length > limit)
        contexts.append(stripped)
        suffixes.append(context[len(stripped) :])
    prompts = [list(source.ids.before) + ids for ids in encoded_texts(tokenizer, contexts, "source")]
    texts, starts = [], []
    for i, own in enumerate(choices):
        alone = apart or cut[i]
        for choice in own:
            added = f"{suffixes[i]}{target.left}{choice}{target.right}"
            texts.append(added if alone else contexts[i] + added)
            starts.append(0 if alone else len(prompts[i]) - len(source.ids.before))
    before = list(target.ids.before)
    found = [before + ids[start:] for ids, start in zip(encoded_texts(tokenizer, texts, "source"), starts, strict=True)]
    unjoined = lambda i: apart or cut[i] or not prompts[i]
    kept = [ragged[i].tolist() if unjoined(i) else prompts[i] for i in range(len(prompts))]
    return kept, _regrouped(found, choices)


def separate(choices: Sequence[Sequence[str]], tokenizer: Any, formats: Formats) -> list[list[list[int]]]:
    """Returns the choices' ids on their own without an end token: `joined` of an encoder-decoder."""
    target = pieces(formats.target, "target", tokenizer)
    texts = [f"{target.left}{text}{target.right}" for own in choices for text in own]
    return _regrouped([list(target.ids.before) + ids for ids in encoded_texts(tokenizer, texts, "target")], choices)


def _regrouped(flat: list[list[int]], like: Sequence[Sequence[str]]) -> list[list[list[int]]]:
    rest = iter(flat)
    return [[next(rest) for _ in own] for own in like]
