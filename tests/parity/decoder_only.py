"""Decoder-only models beside transformers': logits, and gradients of a prefix.

Every call of a case has the same shapes, so that it is compiled twice: without a prefix, and with one and its gradient.
"""

import jax
import numpy as np

from tests.models import torch_models as tm
from tests.models.torch_models import torch

ROWS, COLUMNS, LENGTH = 3, 12, 5


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

    def logits(self, side):
        """Logits without a prefix; transformers makes its own masks here, its sliding window included."""
        token_ids, (mask, positions) = tokens(), padding(side)
        out = self.pair.torch(
            torch.tensor(token_ids), attention_mask=torch.tensor(mask), position_ids=torch.tensor(positions)
        )
        return np.asarray(self.plain(token_ids, mask))[mask == 1], out.logits.numpy()[mask == 1]

    def gradients(self, side):
        """Logits with a prefix, found and expected, our gradients, and the leaves that hold torch's."""
        token_ids, (mask, positions) = tokens(), padding(side)
        cotangent = np.random.default_rng(1).standard_normal((ROWS, COLUMNS, 61), np.float32) * mask[..., None]
        expected, leaves = self.torch_prefixed(token_ids, mask, positions)
        (expected * torch.tensor(cotangent)).sum().backward()
        found, logits = self.prefixed(token_ids, mask, cotangent.astype(np.float32))
        return logits[mask == 1], expected.detach().numpy()[mask == 1], found, leaves

    def packed(self):
        """Of two sequences packed in a row (with padding), the logits there, alone in a row, and in torch."""
        lengths = (6, 4)
        alone = np.zeros((ROWS, COLUMNS), int)
        own = np.zeros((ROWS, COLUMNS), int)
        packed, segments = tokens(3), np.zeros((ROWS, COLUMNS), int)
        for row, length in enumerate(lengths):
            alone[row, :length], own[row, :length] = tokens(row, 1, length)[0], 1
        packed[0, :10] = np.concatenate([alone[0, :6], alone[1, :4]])
        segments[0, :10] = [1] * 6 + [2] * 4
        together, apart = self.prefixed(packed, segments)[1][0], self.prefixed(alone, own)[1]
        for row, columns in enumerate((slice(0, 6), slice(6, 10))):
            ids = packed[:1, columns]
            expected, _ = self.torch_prefixed(ids, np.ones_like(ids), np.arange(ids.shape[1])[None])
            yield together[columns], apart[row, : lengths[row]], expected.detach().numpy()[0]


def tokens(seed=0, rows=ROWS, columns=COLUMNS):
    return np.random.default_rng(seed).integers(0, 61, (rows, columns))


def padding(side):
    """A mask whose rows have 0, 3 and 7 pads, and the positions of the real tokens."""
    mask = np.ones((ROWS, COLUMNS), int)
    for row, pads in enumerate((0, 3, 7) if side != "none" else ()):
        mask[row, slice(COLUMNS - pads, None) if side == "right" else slice(0, pads)] = 0
    return mask, np.maximum(mask.cumsum(1) - 1, 0)
