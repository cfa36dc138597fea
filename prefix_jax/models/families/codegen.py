"""CodeGen (Nijkamp et al. 2022): GPT-J whose query, value and key are one matrix, in four blocks."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from prefix_jax.errors import UserError
from prefix_jax.models.families import gptj
from prefix_jax.models.families.family import Family, Module, module
from prefix_jax.models.families.gptj import GPTJ, GPTJConfig
from prefix_jax.models.leaves import concatenate, merge, narrowed, split, transpose
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.parameters import Names, Tree

# The blocks of the fused matrix, one for each of the cores on which it was trained: each has a quarter of the heads.
BLOCKS = 4
# Where query, key and value stand in a block.
SLOTS = {"query": 0, "key": 2, "value": 1}


@dataclass(frozen=True, kw_only=True)
class CodeGenConfig(GPTJConfig):
    family: ClassVar[str] = "codegen"


def read(c: dict[str, Any]) -> CodeGenConfig:
    found = gptj.read({"rotary_dim": 64, "vocab_size": 50400, **c})
    if found.heads % BLOCKS or not found.rotary_dims:
        raise UserError(
            f"this codegen model has n_head={found.heads} and rotary_dim={c.get('rotary_dim')}; its fused matrix needs "
            f"a number of heads that {BLOCKS} divides, and its positions a rotary_dim: download its config.json again"
        )
    return CodeGenConfig(**asdict(found))


def parameters(model_config: CodeGenConfig, names: Names) -> Tree:
    return gptj.tree(model_config, names, _fused_in_blocks)


def _fused_in_blocks(model_config: ModelConfig, names: Names, path: str) -> Tree:
    e, k, d = model_config.d_model, model_config.heads, model_config.head_dim
    whole = split(names(f"{path}.qkv_proj.weight", 3 * k * d, e), 0, (BLOCKS, 3, k // BLOCKS, d))
    parts = [transpose(narrowed(whole, 1, slot, slot + 1), (0, 2, 1, 3, 4)) for slot in SLOTS.values()]
    return {"kernel": transpose(merge(concatenate(parts, 2), 0, 2), (3, 0, 1, 2))}


def modules(model_config: CodeGenConfig) -> list[Module]:
    e, k, d = model_config.d_model, model_config.heads, model_config.head_dim
    stack, name = (("layers",), model_config.layers), "transformer.h.{}.attn.qkv_proj"
    others = [one for one in gptj.modules(model_config) if one.path[:2] != ("attention", "qkv")]
    # In the order of their slots, as the rows are.
    fused = sorted(SLOTS.items(), key=lambda item: item[1])
    return [
        *(module(stack, f"attention/qkv/{part}", name, e, (k, 1, d), slot, blocks=BLOCKS) for part, slot in fused),
        *others,
    ]


def sizes(layers: int, width: int, heads: int, rotary: int) -> dict[str, Any]:
    sizes = dict(n_layer=layers, n_embd=width, n_head=heads, rotary_dim=rotary, vocab_size=51200, n_positions=2048)
    return {"model_type": "codegen", **sizes}


FAMILY = Family(
    title="CodeGen",
    model_config=CodeGenConfig,
    network=GPTJ,
    readers={"codegen": read},
    parameters=parameters,
    modules=modules,
    anchor="ln_f.weight",
    base="transformer.",
    known={
        "codegen-350m": sizes(20, 1024, 16, 32),
        "codegen-2b": sizes(32, 2560, 32, 64),
        "codegen-6b": sizes(33, 4096, 16, 64),
        "codegen-16b": sizes(34, 6144, 24, 64),
    },
)
