"""Prefix tuning (Li & Liang 2021): keys and values themselves, or an embedding and an MLP that makes them.

The trainable tree is a dictionary of sites. Direct: `{"key", "value"}` as in `models.prefix.PrefixKV`; the first slots
may be `{"frozen_key", "frozen_value"}`, which never move. Through the MLP:
`{"embedding": [P, E], "hidden": {kernel [E, H], bias}, "out": {kernel [H, layers, 2, K, D], bias}}`, tanh between the
two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.models import Model
from prefix_jax.models import prefix as pytree
from prefix_jax.models.matmul import exact
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.prefix import SITES, PrefixKV, parse_layers
from prefix_jax.options import Config
from prefix_jax.tuning.declaration import Declaration, Fact, Section
from prefix_jax.tuning.init_from_model import cycled, frequent_words, site_key_values
from prefix_jax.tuning.method import Method, everything
from prefix_jax.tuning.method_options import MethodOptions
from prefix_jax.tuning.tuned_state import TunedState, Variables

# The value of `initialisation` for a prefix that the caller has (see `trainable_of`).
GIVEN = "given"
# What the names of leaves of slots that never move begin with.
_FROZEN = "frozen_"
# Frequent words whose keys and values give the scale of a random start.
_STATISTICS_WORDS = 64


@dataclass(frozen=True, kw_only=True, repr=False)
class Prefix(MethodOptions):
    """Options of prefix tuning (Li & Liang 2021).

    Attributes:
      length: number of virtual tokens.
      sites: the attentions that see it: "all", or a comma-separated choice of decoder, encoder, cross.
      reparameterisation: "mlp" (an embedding through a two-layer MLP, dropped on export) or "none" (keys and values
        themselves, which need a learning rate ten to fifty times as high).
      hidden: width of the MLP's hidden layer.
      embedding: width of the MLP's embedding; 0: the model's own width.
      initialisation: "random" (at the model's own scale of keys and values), "vocabulary" (its keys and values for
        frequent words), "text" (its keys and values for the words of `text`), or "given" (a prefix that the caller has,
        such as a document's; see `prefix_jax.distill`).
      text: the words of `initialisation="text"`.
      trained: "both", or only its "keys" or "values" (without an MLP); the others stay as initialised.
      frozen: number of first slots that stay as initialised (without an MLP). Much attention goes to a text's first
        token, and training that moves its keys forgets more (2506.06266).
      gate: above 0, each slot's logits get a trained bias that begins at minus this; 16 begins as the model without it.
      dropout: share of the prefix's numbers dropped in a training step.
      layers: "all", or layers and ranges such as "0-5,11".
      position_offset: where the tokens' positions start: "length" (after the prefix; the paper and PEFT) or "zero".
      offset: the position where they start in place of that, if above 0: after a document that the slots stand for.
      alibi: in models with ALiBi: "none" (every query sees the slots alike, however far it is) or "distance" (slots
        stand before the tokens, and have the bias of their distance, as in PEFT).

    >>> pj.Prefix(length=20) | pj.LoRA(rank=4)
    Prefix(length=20) | LoRA(rank=4)
    """

    method: ClassVar[str] = "prefix"
    length: int = 10
    sites: str = "all"
    reparameterisation: str = "mlp"
    hidden: int = 512
    embedding: int = 0
    initialisation: str = "vocabulary"
    text: str = ""
    trained: str = "both"
    frozen: int = 0
    gate: float = 0.0
    dropout: float = 0.0
    layers: str = "all"
    position_offset: str = "length"
    offset: int = 0
    alibi: str = "none"


def method(model: Model, section: Config, init_token_ids: Sequence[int], infix: bool = False) -> Method:
    """Returns prefix tuning for a model; see `tuning.build`. An infix stands between the source and the target."""
    model_config = model.model_config
    layers = {
        site: parse_layers(section.layers, model_config.site_layers(site))
        for site in chosen_sites(section, model_config)
    }
    _check(section, model_config, init_token_ids)

    def init(key: Array, base: Variables) -> PyTree:
        return _init(key, base, model, section, layers, init_token_ids)

    offset = section.offset or (section.length if section.position_offset == "length" else 0)
    distances = section.alibi == "distance"
    if distances and (model_config.alibi is None or infix or not offset):
        raise UserError(
            'prefix.alibi is "distance", which is for a prefix (not an infix) of a model with ALiBi, with '
            "position_offset=length; set --config.prefix.alibi=none"
        )

    def export(trainable: PyTree, base: Variables, key: Array | None = None) -> TunedState:
        sites: dict[str, PrefixKV] = {}
        for name, leaves in trainable.items():
            leaves = _whole(leaves)
            pair = mlp_output(leaves) if "embedding" in leaves else jnp.stack([leaves["key"], leaves["value"]])
            if key is not None and section.dropout:
                pair = _dropout(jax.random.fold_in(key, SITES.index(name)), pair, section.dropout)
            bias = section.gate * leaves["gate"] if "gate" in leaves else None
            sites[name] = PrefixKV(pair[0], pair[1], bias, layers=layers[name])
        placed = pytree.Prefix(position_offset=jnp.int32(offset), infix=infix, distances=distances, **sites)
        return TunedState(placed)

    def mask(trainable: PyTree) -> PyTree:
        still = {"keys": ("value",), "values": ("key",), "both": ()}[section.trained]
        moving = lambda name: name not in still and not name.startswith(_FROZEN)
        return {site: {name: moving(name) for name in leaves} for site, leaves in trainable.items()}

    moves = mask if section.reparameterisation == "none" else everything
    return Method(init, export, mask=moves, resize=resize, positions=offset, fixed_positions=bool(section.offset))


def chosen_sites(section: Config, model_config: ModelConfig) -> tuple[str, ...]:
    """Returns the sites that `section.sites` names, in the order of SITES.

    Raises:
      UserError: a site is unknown or the model does not have it.
    """
    if section.sites == "all":
        return model_config.sites
    named = [part.strip() for part in section.sites.split(",")]
    for name in named:
        if name not in SITES:
            raise UserError(f'prefix.sites has "{name}"{did_you_mean(name, SITES)}')
        if name not in model_config.sites:
            raise UserError(f'prefix.sites has "{name}", but this model has only: {", ".join(model_config.sites)}')
    return tuple(site for site in SITES if site in named)


def resize(trainable: PyTree, slots: int) -> PyTree:
    """Returns the trainable tree with the first `slots` virtual tokens, and zeros where it had fewer."""

    def resized(leaf: Array, axis: int, slots: int) -> Array:
        missing = [(0, max(slots - leaf.shape[axis], 0) if i == axis else 0) for i in range(leaf.ndim)]
        return lax.slice_in_dim(jnp.pad(leaf, missing), 0, slots, axis=axis)

    def site(leaves: PyTree) -> PyTree:
        if "embedding" in leaves:
            gate = {"gate": resized(leaves["gate"], 2, slots)} if "gate" in leaves else {}
            return {**leaves, "embedding": resized(leaves["embedding"], 0, slots), **gate}
        still, moving = _parts(leaves)
        left = slots - (still["key"].shape[2] if still else 0)
        return {**leaves, **{name: resized(leaf, 2, left) for name, leaf in moving.items()}}

    return {name: site(leaves) for name, leaves in trainable.items()}


def trainable_of(prefix: pytree.Prefix, section: Config) -> PyTree:
    """Returns the trainable tree, without an MLP, whose prefix is the one given; see `Prefix` for the section.

    Raises:
      UserError: the section describes another prefix: of other length, of some sites or layers, through an MLP, or
        without a gate where slots have biases.
    """
    if section.reparameterisation != "none":
        raise UserError("a given prefix is trained without an MLP; set --config.prefix.reparameterisation=none")
    if (section.sites, section.layers) != ("all", "all"):
        raise UserError("a given prefix is trained whole; leave prefix.sites and prefix.layers out")
    found = {}
    for name in SITES:
        if (site := pytree.prefix_of(prefix, name)) is None:
            continue
        if site.key.shape[-2] != section.length:
            raise UserError(f"the given prefix has {site.key.shape[-2]} slots, and prefix.length is {section.length}")
        leaves = {"key": site.key, "value": site.value}
        if section.gate:
            bias = jnp.zeros(site.key.shape[:-1]) if site.bias is None else site.bias
            leaves["gate"] = bias / section.gate
        elif site.bias is not None:
            raise UserError(
                "the given prefix has biases of slots, which prefix.gate=1 trains; set --config.prefix.gate"
            )
        found[name] = _divided(leaves, section.frozen)
    return found


def _divided(leaves: PyTree, frozen: int) -> PyTree:
    """Returns the leaves of a site with those of its first slots apart."""
    if not frozen:
        return leaves
    before = {_FROZEN + name: leaf[:, :, :frozen] for name, leaf in leaves.items()}
    return {**before, **{name: leaf[:, :, frozen:] for name, leaf in leaves.items()}}


def _parts(leaves: PyTree) -> tuple[PyTree, PyTree]:
    """Returns the leaves of a site's frozen slots, and the others."""
    before = {name.removeprefix(_FROZEN): leaf for name, leaf in leaves.items() if name.startswith(_FROZEN)}
    return before, {name: leaf for name, leaf in leaves.items() if not name.startswith(_FROZEN)}


def _whole(leaves: PyTree) -> PyTree:
    """Inverts `_divided`."""
    before, rest = _parts(leaves)
    return {name: jnp.concatenate([before[name], leaf], 2) if before else leaf for name, leaf in rest.items()}


def _check(section: Config, model_config: ModelConfig, init_token_ids: Sequence[int]) -> None:
    if section.initialisation == "text" and not init_token_ids:
        raise UserError('prefix.initialisation is "text", but prefix.text names no words; set --config.prefix.text')
    if section.trained != "both" and section.reparameterisation != "none":
        raise UserError(
            f'prefix.trained is "{section.trained}", and an MLP makes keys and values together; set '
            "--config.prefix.reparameterisation=none"
        )
    if section.frozen and (section.reparameterisation != "none" or section.frozen >= section.length):
        raise UserError(
            f"prefix.frozen is {section.frozen}, which must be below prefix.length={section.length}, and needs "
            "--config.prefix.reparameterisation=none"
        )
    name, most = max(("length", section.length), ("offset", section.offset), key=lambda one: one[1])
    if model_config.context_length is not None and most >= model_config.context_length:
        raise UserError(
            f"prefix.{name} is {most}, but the model's window has only {model_config.context_length} positions"
        )


def mlp_output(leaves: PyTree) -> Float[Array, "2 layers K P D"]:
    """Returns the keys and values that the MLP makes of its embedding."""
    hidden = jnp.tanh(exact(leaves["embedding"], leaves["hidden"]["kernel"]) + leaves["hidden"]["bias"])
    kernel, bias = leaves["out"]["kernel"], leaves["out"]["bias"]
    # As a product of two matrices, or the compiler would transpose the kernel in every step.
    out = exact(hidden, kernel.reshape(len(kernel), -1)).reshape(-1, *bias.shape) + bias
    return out.transpose(2, 1, 3, 0, 4)


def _init(
    key: Array, base: Variables, model: Model, section: Config, layers: dict[str, Any], init_token_ids: Sequence[int]
) -> PyTree:
    length = section.length
    key_words, key_slots, key_mlp = jax.random.split(key, 3)
    mean, deviation = _statistics(key_words, base, model, length)
    start = (
        None
        if section.initialisation in ("random", GIVEN)
        else _word_key_values(key_words, base, model, section, init_token_ids)
    )
    trainable = {}
    for name, chosen in layers.items():
        rows = slice(None) if chosen is None else jnp.asarray(chosen)
        site_key = jax.random.fold_in(key_slots, SITES.index(name))
        mu, sigma = mean[name][:, rows], deviation[name][:, rows]
        drawn = mu[..., None, :] + sigma[..., None, :] * _normal_slots(site_key, length, sigma.shape)
        pair = drawn if start is None else start[name][:, rows]
        if section.reparameterisation == "none":
            trainable[name] = {"key": pair[0], "value": pair[1]}
        else:
            mlp = _init_mlp(jax.random.fold_in(key_mlp, SITES.index(name)), model.model_config, section, mu, sigma)
            trainable[name] = mlp if start is None else fit_mlp(mlp, pair)
        if section.gate:
            # Times `gate`, the slots' logit bias: it opens in about 1 / learning rate steps of Adam.
            trainable[name]["gate"] = jnp.full((*sigma.shape[1:3], length), -1.0)
        trainable[name] = _divided(trainable[name], section.frozen)
    return trainable


def _statistics(key: Array, base: Variables, model: Model, length: int) -> tuple[dict, dict]:
    """Mean and deviation of the model's keys and values, `[2, layers, K, D]` for each site, over frequent words."""
    words = frequent_words(jax.random.fold_in(key, 1), _STATISTICS_WORDS, model.model_config)[:, None]
    positions = jnp.arange(_STATISTICS_WORDS)[:, None] % length
    pairs = {name: jnp.stack(kv)[:, :, :, :, 0] for name, kv in site_key_values(model, base, words, positions).items()}
    return (
        {name: pair.mean(2) for name, pair in pairs.items()},
        {name: pair.std(2) for name, pair in pairs.items()},
    )


def _word_key_values(
    key: Array, base: Variables, model: Model, section: Config, init_token_ids: Sequence[int]
) -> dict[str, Float[Array, "2 layers K P D"]]:
    """The model's keys and values for frequent words, each alone in its slot, or for the words of a text, read in
    order.
    """
    slots = jnp.arange(section.length)
    if section.position_offset == "zero" and model.model_config.positions == "rotary":
        slots = slots - section.length  # the slots before position 0
    if section.initialisation == "text":
        found = site_key_values(model, base, cycled(init_token_ids, section.length)[None], slots[None])
        return {name: jnp.stack(kv)[:, :, 0] for name, kv in found.items()}
    drawn = frequent_words(jax.random.fold_in(key, 0), section.length, model.model_config)
    found = site_key_values(model, base, drawn[:, None], slots[:, None])
    return {name: jnp.moveaxis(jnp.stack(kv)[..., 0, :], 2, 3) for name, kv in found.items()}


def _normal_slots(key: Array, length: int, shape: tuple[int, ...]) -> Float[Array, "... P width"]:
    """Normal numbers with a key for each slot, so that a shorter prefix is the beginning of a longer one."""

    def draw(slot: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, slot), shape)

    return jnp.moveaxis(jax.vmap(draw)(jnp.arange(length)), 0, -2)


def _init_mlp(key: Array, model_config: ModelConfig, section: Config, mu: Array, sigma: Array) -> PyTree:
    """An MLP whose outputs have the mean and deviation given, `[2, layers, K, D]`."""
    width = section.embedding or model_config.d_model
    key_embedding, key_hidden, key_out = jax.random.split(key, 3)
    embedding = _normal_slots(key_embedding, section.length, (width,))
    hidden = jax.random.normal(key_hidden, (width, section.hidden)) * width**-0.5
    # tanh of a standard normal has the root mean square 0.628.
    out_scale = sigma / (0.628 * section.hidden**0.5)
    out = jax.random.normal(key_out, (section.hidden, *sigma.shape)) * out_scale
    return {
        "embedding": embedding,
        "hidden": {"kernel": hidden, "bias": jnp.zeros(section.hidden)},
        "out": {"kernel": jnp.moveaxis(out, 1, 2), "bias": jnp.moveaxis(mu, 0, 1)},
    }


def fit_mlp(leaves: PyTree, pair: Float[Array, "2 layers K P D"]) -> PyTree:
    """Returns the MLP with the smallest change of its last kernel whose output is `pair`.

    The paper fits by 500 Adam steps; with no more slots than hidden units the least-squares solution is exact.
    """
    hidden = jnp.tanh(exact(leaves["embedding"], leaves["hidden"]["kernel"]) + leaves["hidden"]["bias"])
    missing = jnp.moveaxis(pair - mlp_output(leaves), 3, 0)  # [P, 2, layers, K, D]
    change = jnp.linalg.lstsq(hidden, missing.reshape(missing.shape[0], -1))[0]
    change = jnp.moveaxis(change.reshape(-1, *missing.shape[1:]), 1, 2)
    return {**leaves, "out": {**leaves["out"], "kernel": leaves["out"]["kernel"] + change}}


def _dropout(key: Array, x: Float[Array, "2 layers K P D"], rate: float) -> Float[Array, "2 layers K P D"]:
    """Drops numbers, each slot by a key of its own."""

    def keep(slot: Array) -> Array:
        return jax.random.bernoulli(jax.random.fold_in(key, slot), 1 - rate, (*x.shape[:3], x.shape[4]))

    return jnp.where(jax.vmap(keep, out_axes=3)(jnp.arange(x.shape[3])), x / (1 - rate), 0.0)


def length_label(name: str, section: Section, usual: str) -> str:
    """Returns the name with the number of virtual tokens, and the reparameterisation unless it is the usual one."""
    through = section["reparameterisation"]
    how = "" if through == usual else ", direct" if through == "none" else f", {through.upper()}"
    return f"{name} {section['length']}{how}"


def _note(section: Section) -> str | None:
    through = section.get("reparameterisation")
    if through == "mlp":
        return f"through an MLP of width {section.get('hidden', '?')}, dropped on export"
    return "keys and values themselves" if through == "none" else None


def _facts(section: Section, saved: Section) -> list[Fact]:
    sites = saved.get("sites", section.get("sites"))
    sites = ", ".join(map(str, sites)) if isinstance(sites, (list, tuple)) else sites
    return [
        ("Prefix length", saved.get("length", section.get("length")), f"at {sites} attention" if sites else None),
        ("Initialisation", section.get("initialisation"), None),
    ]


RANGES: Mapping[str, Sequence[str]] = {
    "at least 1": ("length", "hidden"),
    "at least 0": ("embedding", "gate", "frozen", "offset"),
    "at least 0 and below 1": ("dropout",),
}
CHOICES: Mapping[str, tuple[str, ...]] = {
    "reparameterisation": ("mlp", "none"),
    "initialisation": ("random", "vocabulary", "text", GIVEN),
    "position_offset": ("length", "zero"),
    "alibi": ("none", "distance"),
    "trained": ("both", "keys", "values"),
}
_SITE = r"(encoder|decoder|cross)"
AXES = (
    (rf"{_SITE}/(frozen_)?(key|value)", ("layers", "kv_heads", "slots", "head")),
    (rf"{_SITE}/out/kernel", ("bottleneck", "layers", "pair", "kv_heads", "head")),
    (rf"{_SITE}/out/bias", ("layers", "pair", "kv_heads", "head")),
)
_DIRECT = {"length": 10, "reparameterisation": "none"}
METHOD = Declaration(
    name="prefix",
    title="Prefix tuning",
    section=Prefix.section,
    build=method,
    kind=lambda section, share: "prefix, direct" if section["reparameterisation"] == "none" else "prefix",
    label=lambda section, share: length_label("prefix", section, "mlp"),
    ranges=RANGES,
    choices=CHOICES,
    sets=("sites", "layers"),
    traced=("length", "initialisation", "text"),
    axes=AXES,
    takes="prefix",
    examples=(
        ("prefix 10, direct", _DIRECT),
        ("prefix 10, direct, keys alone", {**_DIRECT, "trained": "keys"}),
        ("prefix 10, direct, values alone", {**_DIRECT, "trained": "values"}),
        ("prefix 10, direct, with a gate", {**_DIRECT, "gate": 16.0}),
        ("prefix 10 through an MLP of 512", {"length": 10}),
        ("prefix 20 through an MLP of 512", {"length": 20}),
        ("prefix 20 through an MLP of 512, embedding of 512", {"length": 20, "embedding": 512}),
    ),
    note=_note,
    facts=_facts,
)
