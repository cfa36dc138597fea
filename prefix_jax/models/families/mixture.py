"""What families with mixtures of experts share: a rotary decoder whose MLPs are `Experts`, and the forms in which
checkpoints store them.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn

from prefix_jax.models.experts import Experts
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.rotary_decoder import RotaryConfig, RotaryDecoder
from prefix_jax.models.leaves import Leaf, narrowed, stack, transpose
from prefix_jax.models.parameters import Names, Tree, linear


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(RotaryConfig):
    """Sizes of a mixture; `d_ff` is the inner width of one expert.

    Attributes:
      experts: how many there are.
      chosen: how many each token takes.
      renormalised: whether the weights of those chosen sum to 1.
      shared_width: the inner width of the MLP that all tokens take; 0: none.
    """

    # Where a layer's experts are, in transformers 5 and in checkpoints, and one expert's gate, up and down there.
    places: ClassVar[tuple[str, ...]] = ("mlp",)
    parts: ClassVar[tuple[str, str, str]] = ("gate_proj", "up_proj", "down_proj")
    experts: int
    chosen: int
    renormalised: bool = True
    shared_width: int = 0

    @property
    def mlp_width(self) -> int:
        return self.shared_width


class MixtureDecoder(RotaryDecoder):
    model_config: MixtureConfig

    def make_mlp(self) -> nn.Module:
        s = self.model_config
        return Experts(
            s.experts, s.chosen, s.d_ff, renormalised=s.renormalised, shared_width=s.shared_width, sharder=self.sharder
        )


def sparse_everywhere(c: dict[str, Any]) -> None:
    """Raises UserError if some layers of a Qwen model have no experts: layers here are alike."""
    refuse(c, "decoder_sparse_step", (1,))
    refuse(c, "mlp_only_layers", ([], None))


def experts(s: MixtureConfig, names: Names, path: str) -> Tree:
    """Returns a layer's router and experts, stored one by one or all together."""
    e, f, x = s.d_model, s.d_ff, s.experts
    place = next((p for p in s.places if f"{path}{p}.gate.weight" in names), s.places[0])
    base = f"{path}{place}"
    if f"{base}.experts.gate_up_proj" in names:
        both = names(f"{base}.experts.gate_up_proj", x, 2 * f, e)
        matrices = [narrowed(both, 1, 0, f), narrowed(both, 1, f, 2 * f), names(f"{base}.experts.down_proj", x, e, f)]
    else:
        shapes = ((f, e), (f, e), (e, f))
        matrices = [
            stack([names(f"{base}.experts.{i}.{part}.weight", *shape) for i in range(x)])
            for part, shape in zip(s.parts, shapes, strict=True)
        ]
    router = {"weight": linear(names(f"{base}.gate.weight", x, e))}
    return {"router": router, **kernels([transpose(matrix, (0, 2, 1)) for matrix in matrices])}


def kernels(matrices: list[Leaf]) -> Tree:
    """Returns experts' kernels, given gate, up and down as `[X, inputs, outputs]`."""
    named = zip(("gate", "up", "down"), matrices, strict=True)
    return {f"experts_{name}": {"kernel": matrix} for name, matrix in named}


def with_shared(s: MixtureConfig, names: Names, path: str) -> Tree:
    """Returns a layer's router and experts, and the expert that all tokens take."""
    e, f = s.d_model, s.shared_width
    shapes = {"gate": (f, e), "up": (f, e), "down": (e, f)}
    base = f"{path}mlp.shared_expert"
    shared = {ours: {"kernel": linear(names(f"{base}.{ours}_proj.weight", *n))} for ours, n in shapes.items()}
    gate = {"kernel": linear(names(f"{base}_gate.weight", 1, e))}
    return {**experts(s, names, path), "shared": shared, "shared_gate": gate}
