"""What the other tools' formats share: the order of the numbers, and the position of the first token.

A prefix of P slots, L layers, K KV heads and D numbers a head is `[P, 2 L K D]`: column `((2 l + c) K + k) D + d`, c =
0 for keys and 1 for values.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from prefix_jax import schema
from prefix_jax.disk import from_json
from prefix_jax.errors import UserError, first_line
from prefix_jax.models import families
from prefix_jax.models.attention import rotary_angles, rotate
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.prefix import Prefix, PrefixKV, length
from prefix_jax.models.pretrained import safetensors_file, torch_file


def to_flat(site: PrefixKV) -> np.ndarray:
    """Returns `[P, 2 L K D]`, float32, of a site's keys and values."""
    pair = np.stack([np.asarray(site.key, np.float32), np.asarray(site.value, np.float32)], axis=1)  # [L, 2, K, P, D]
    flat = np.moveaxis(pair, 3, 0)
    return np.ascontiguousarray(flat).reshape(flat.shape[0], -1)


def from_flat(flat: np.ndarray, kv_heads: int, head_dim: int, layers: tuple[int, ...] | None = None) -> PrefixKV:
    """Returns the site whose numbers are `[P, 2 L K D]`; `layers` names the layers that carry it.

    Raises:
      UserError: the numbers do not divide into such heads and layers.
    """
    each = 2 * kv_heads * head_dim
    count = flat.shape[1] // each
    if flat.shape[1] % each or (layers is not None and len(layers) != count):
        raise UserError(
            f"a prefix with {flat.shape[1]:,} numbers a slot does not divide into "
            f"{'layers' if layers is None else f'{len(layers)} layers'} of {kv_heads} KV heads of {head_dim}; "
            "is it of another model?"
        )
    pair = np.moveaxis(flat.astype(np.float32).reshape(-1, count, 2, kv_heads, head_dim), 0, 3)
    return PrefixKV(jnp.asarray(pair[:, 0]), jnp.asarray(pair[:, 1]), layers=layers)


def with_offset(prefix: Prefix, model_config: ModelConfig | None, offset: int) -> Prefix:
    """Returns the prefix that does the same where token positions start at `offset`.

    Rotary keys are turned by the difference (exact, up to one float32 rounding of each number); relative positions know
    no start; with learned positions no keys do the same.

    Raises:
      UserError: the positions are learned, or the spec, and with it the kind of position, is not known.
    """
    own = int(prefix.position_offset)
    if own == offset:
        return prefix
    if model_config is None:
        raise UserError(
            f"the target format starts token positions at {offset}, not {own}, and how to move this prefix depends on "
            "the base model, which is not known; name it with --model"
        )
    if model_config.positions == "rotary" and prefix.decoder is not None:
        prefix = replace(prefix, decoder=_rotated(prefix.decoder, model_config, offset - own))
    elif model_config.positions in ("learned", "sinusoidal"):
        raise UserError(
            f"this prefix was trained with token positions from {own}, and the target format starts them at {offset}; "
            f"with {model_config.positions} positions no conversion exists: tune with --config.prefix.position_offset="
            f"{'length' if offset else 'zero'}"
        )
    return replace(prefix, position_offset=offset)


def _rotated(site: PrefixKV, model_config: ModelConfig, by: int) -> PrefixKV:
    """Returns a site with its keys moved by so many positions, each layer's by its own rotary."""
    keys = []
    for layer, key in zip(site.layers or range(model_config.layers), jnp.asarray(site.key), strict=True):
        rotary = model_config.layer_pattern[layer].rotary
        if rotary is not None:
            angles = rotary_angles(jnp.array([by]), model_config.head_dim, rotary, amplified=False)
            key = rotate(key, angles, rotary.interleaved)
        keys.append(key)
    return replace(site, key=jnp.stack(keys))


def only_decoder(prefix: Prefix, model_config: ModelConfig | None, format_name: str) -> PrefixKV:
    """Returns the decoder's site of a decoder-only model's prefix, without slot bias and on all layers.

    Raises:
      UserError: the prefix is more than the format can say.
    """
    site = prefix.decoder
    both = model_config is not None and model_config.is_encoder_decoder
    if site is None or prefix.encoder is not None or prefix.cross is not None or both:
        known = model_config is None or families.of(model_config).adapters is not None
        instead = "use --to adapters" if known else "keep it as prefix_jax"
        raise UserError(
            f"{format_name} cannot hold the prefix of an encoder-decoder (it scrambles its sites); {instead}"
        )
    if site.layers is not None:
        raise UserError(
            f"this prefix is on layers {', '.join(map(str, site.layers))} only, and {format_name} needs it on all; "
            "use --to adapters"
        )
    refuse_bias(prefix, format_name)
    return site


def refuse_bias(prefix: Prefix, format_name: str) -> None:
    """Raises UserError where slots have a bias, which no other format has."""
    if any(site is not None and site.bias is not None for site in (prefix.decoder, prefix.encoder, prefix.cross)):
        raise UserError(f"this prefix has a bias on its slots, which {format_name} cannot hold; keep it as prefix_jax")


def check_length(prefix: Prefix) -> int:
    """Returns the number of slots, which must be the same at all sites."""
    sites = [site for site in (prefix.decoder, prefix.encoder, prefix.cross) if site is not None]
    if len({site.key.shape[-2] for site in sites}) > 1:
        raise UserError("this prefix has other lengths at other sites; adapters cannot hold it, keep it as prefix_jax")
    return length(prefix)


def read_tensors(folder: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Returns the tensors of the first file of `names` in the folder; pickles through a weights-only reader.

    Raises:
      UserError: none is there, or it is damaged.
    """
    for name in names:
        if (path := folder / name).is_file():
            table = safetensors_file.read(path)[0] if path.suffix == ".safetensors" else torch_file.read(path)
            return {key: np.array(leaf.all()) for key, leaf in table.items()}
    raise UserError(f"{folder} has no weights ({' or '.join(names)}); copy the folder again")


def read_json(path: Path, kind: Any = None) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Args:
      kind: its schema (see `schema`); None: any object.

    Raises:
      UserError: it is absent, holds no JSON object, or not one of the schema.
    """
    try:
        value = from_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); copy it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object; copy it again")
    return value if kind is None else schema.checked(value, kind, path, "copy it again")


def mlp_output(tensors: Mapping[str, np.ndarray], embedding: str, layers: str) -> np.ndarray:
    """Returns what the reparameterisation makes: linear layers `LAYERS.0`, `.2`, ... with tanh between.

    Raises:
      UserError: a tensor is absent or of another shape.
    """
    try:
        out = tensors[embedding].astype(np.float32)
        index = 0
        while f"{layers}.{index}.weight" in tensors:
            out = np.tanh(out) if index else out
            out = out @ tensors[f"{layers}.{index}.weight"].astype(np.float32).T + tensors[f"{layers}.{index}.bias"]
            index += 2
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"the prefix's MLP is incomplete ({first_line(error)}); copy the folder again") from None
    if out.ndim != 2:
        raise UserError(f"the prefix has {out.ndim} axes, and 2 are expected; copy the folder again")
    return out
