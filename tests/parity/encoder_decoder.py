"""Encoder-decoder models beside transformers': logits, and gradients of a prefix at all three sites."""

import jax
import numpy as np

from tests.models import torch_models as tm
from tests.models.torch_models import torch

# Of each site, the layers that carry a prefix in the second kind of prefix (None: all).
SUBSETS = {"encoder": (1,), "decoder": None, "cross": (1,)}
ROWS, SOURCE, TARGET, LENGTH = 3, 14, 9, 4


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

    def compare_logits(self, pads):
        given = inputs(pads)
        seen = given[1] == 1
        return np.asarray(self.plain(given))[seen], self.torch_logits(given)[0].numpy()[seen]

    def gradients(self, kind):
        """Of padded rows, logits with a prefix, found and expected, our gradients, and the leaves that hold torch's."""
        given = inputs((0, 4, 8))
        seen = given[1] == 1
        cotangent = np.random.default_rng(1).standard_normal((ROWS, TARGET, 61), np.float32) * seen[..., None]
        expected, leaves = self.torch_logits(given, kind)
        (expected * torch.tensor(cotangent)).sum().backward()
        found, logits = self.prefixed(kind, given, cotangent.astype(np.float32))
        return logits[seen], expected.detach().numpy()[seen], found, leaves

    def packed(self):
        """Of two pairs packed jointly in a row, the logits there, alone in a row, and in torch."""
        sources, targets = (6, 5), (5, 3)
        alone = tuple(np.zeros((ROWS, n), int) for n in (TARGET, TARGET, SOURCE, SOURCE))
        tokens, mask, encoder_tokens, encoder_mask = inputs((0, 0, 0))
        packed = (tokens, np.zeros_like(mask), encoder_tokens, np.zeros_like(encoder_mask))
        for row in range(2):
            for side, lengths in ((0, targets), (2, sources)):
                columns = slice(sum(lengths[:row]), sum(lengths[: row + 1]))
                alone[side][row, : lengths[row]] = packed[side][0, columns]
                alone[side + 1][row, : lengths[row]] = 1
                packed[side + 1][0, columns] = row + 1
        together, apart = self.prefixed("all", packed)[1][0], self.prefixed("all", alone)[1]
        expected = self.torch_logits(alone, "all")[0].detach().numpy()
        for row, length in enumerate(targets):
            columns = slice(sum(targets[:row]), sum(targets[: row + 1]))
            yield together[columns], apart[row, :length], expected[row, :length]


def inputs(pads):
    """Random tokens; source rows have `pads` tokens of padding on the right, target rows about half of that."""
    generator = np.random.default_rng(0)
    tokens, encoder_tokens = (generator.integers(2, 61, (ROWS, n)) for n in (TARGET, SOURCE))
    mask, encoder_mask = np.ones_like(tokens), np.ones_like(encoder_tokens)
    for row, count in enumerate(pads):
        mask[row, TARGET - count // 2 :] = 0
        encoder_mask[row, SOURCE - count :] = 0
    return tokens, mask, encoder_tokens, encoder_mask
