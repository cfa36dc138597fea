"""Conversion of checkpoint tensors to a parameter tree, by the rules of the model's family."""

import sys

from prefix_jax.errors import UserError
from prefix_jax.models import families
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.parameters import Names, Table, Tree
from prefix_jax.models.pretrained import causes

# Redundant tensors: masks, positions and frequencies that a model computes, and versions.
_BUFFERS = ("*.attn.bias", "*.attn.masked_bias", "*rotary_emb.inv_freq", "*rotary_emb.*_cached", "*position_ids")
_BUFFERS += ("encoder.version", "decoder.version", "*embed_positions._float_tensor")
# An unused relative bias in the cross-attention of old T5 decoders.
_BUFFERS += ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)


def to_tree(model_config: ModelConfig, table: Table) -> Tree:
    """Returns the parameter tree of `model_config` over the leaves of a checkpoint.

    Raises:
      UserError: a tensor is missing, has an unexpected shape, or does not belong to the model.
    """
    family = families.of(model_config)
    causes.refuse_names(table, "the checkpoint")
    names = Names(causes.unwrapped(table, family.anchor, family.base))
    names.without(family.base)
    names.ignore(*_BUFFERS)
    tree = family.parameters(model_config, names)
    _refuse_unused(names.unused())
    return tree


def _refuse_unused(unused: set[str]) -> None:
    if heads := causes.other_heads(unused):
        print(
            f'The checkpoint also holds another head ("{min(heads)}", {len(heads)} such), which is left out.',
            file=sys.stderr,
        )
    if rest := sorted(unused - set(heads)):
        raise UserError(
            f'the checkpoint has the tensor "{rest[0]}" ({len(rest)} such), which no model of its model_type has '
            "here; it is not supported"
        )
