"""Infix tuning (Li & Liang 2021, section 7.2): trained keys and values between the source and the target.

The source does not see them; the target does, and its positions come after theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from prefix_jax.errors import UserError
from prefix_jax.models import Model
from prefix_jax.options import Config
from prefix_jax.tuning import prefix
from prefix_jax.tuning.declaration import Declaration
from prefix_jax.tuning.method import Method


@dataclass(frozen=True, kw_only=True, repr=False)
class Infix(prefix.Prefix):
    """Options of infix tuning, which are those of `Prefix`; for decoder-only models.

    >>> pj.Infix(length=5)
    Infix(length=5)
    """

    method: ClassVar[str] = "infix"


def method(model: Model, section: Config, init_token_ids: Sequence[int]) -> Method:
    """Returns infix tuning for a model; see `tuning.build`."""
    if model.model_config.is_encoder_decoder:
        raise UserError(
            "an infix is for decoder-only models: in an encoder-decoder the whole target sees a prefix of the decoder; "
            "set --config.method=prefix --config.prefix.sites=decoder"
        )
    return prefix.method(model, section, init_token_ids, infix=True)


METHOD = Declaration(
    name="infix",
    title="Infix tuning",
    section=Infix.section,
    build=method,
    kind=lambda section, share: "infix",
    label=lambda section, share: prefix.length_label("infix", section, "mlp"),
    ranges=prefix.RANGES,
    choices=prefix.CHOICES,
    sets=("sites", "layers"),
    axes=prefix.AXES,
    takes="prefix",
    fused=False,
    encoder_decoder=False,
    examples=(("infix 10, direct", {"length": 10, "reparameterisation": "none"}),),
)
