"""Prompt tuning: trained embeddings before the input, which the network turns into keys and values itself.

Free (Lester et al. 2021; the paper's embedding-only ablation), through an MLP (the paper), or through a recurrent
encoder and an MLP (P-tuning, Liu et al. 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from prefix_jax.errors import UserError
from prefix_jax.models import Model
from prefix_jax.models.adapter_layers import PROMPT
from prefix_jax.models.matmul import exact
from prefix_jax.options import Config
from prefix_jax.tuning.declaration import Declaration
from prefix_jax.tuning.init_from_model import cycled, frequent_words
from prefix_jax.tuning.method import Method
from prefix_jax.tuning.method_options import MethodOptions
from prefix_jax.tuning.prefix import length_label
from prefix_jax.tuning.tuned_state import TunedState, Variables


@dataclass(frozen=True, kw_only=True, repr=False)
class Prompt(MethodOptions):
    """Options of prompt tuning (Lester et al. 2021; P-tuning, Liu et al. 2021).

    Attributes:
      length: number of embeddings before the input (the encoder's, where there is one).
      reparameterisation: "none" (the embeddings themselves), "mlp", or "lstm" (P-tuning's encoder).
      hidden: width inside the MLP or the LSTM.
      initialisation: "vocabulary" (embeddings of frequent words), "random", or "text" (those of the words of `text`).
      text: the words of `initialisation="text"`.

    >>> pj.Prompt(length=5, initialisation="text", text="Describe the place:")
    Prompt(length=5, initialisation='text', text='Describe the place:')
    """

    method: ClassVar[str] = "prompt"
    length: int = 20
    reparameterisation: str = "none"
    hidden: int = 512
    initialisation: str = "vocabulary"
    text: str = ""


def method(model: Model, section: Config, init_token_ids: Sequence[int]) -> Method:
    """Returns prompt tuning for a model; see `tuning.build`."""
    if section.initialisation == "text" and not init_token_ids:
        raise UserError('prompt.initialisation is "text", but prompt.text names no words; set --config.prompt.text')
    width = model.model_config.embedding_width

    def init(key: Array, base: Variables) -> PyTree:
        key_start, key_net = jax.random.split(key)
        start = _start(key_start, base["params"]["embedding"]["tokens"], model, section, init_token_ids)
        if section.reparameterisation == "none":
            return {"embeddings": start}
        if section.reparameterisation == "mlp":
            return {"embeddings": start, **_init_mlp(key_net, width, section.hidden, start)}
        # Both directions side by side go through an MLP of their width.
        key_lstm, key_mlp = jax.random.split(key_net)
        lstm = _init_lstm(key_lstm, width, section.hidden)
        return {"embeddings": start, "lstm": lstm, **_init_mlp(key_mlp, 2 * section.hidden, 2 * section.hidden, start)}

    def export(trainable: PyTree, base: Variables, key: Array | None = None) -> TunedState:
        return TunedState(None, {PROMPT: {"embeddings": encoded(trainable)}})

    return Method(init, export, positions=section.length, reserved=section.length)


def _start(
    key: Array, table: Float[Array, "V E"], model: Model, section: Config, init_token_ids: Sequence[int]
) -> Float[Array, "P E"]:
    if section.initialisation == "random":
        rows = jnp.take(table, frequent_words(key, 256, model.model_config), axis=0).astype(jnp.float32)

        def draw(slot: Array) -> Array:
            return jax.random.normal(jax.random.fold_in(key, slot), rows.shape[1:])

        return rows.mean(0) + rows.std(0) * jax.vmap(draw)(jnp.arange(section.length))
    text = section.initialisation == "text"
    ids = cycled(init_token_ids, section.length) if text else frequent_words(key, section.length, model.model_config)
    return jnp.take(table, ids, axis=0).astype(jnp.float32)


def encoded(tree: PyTree) -> Float[Array, "P E"]:
    """Returns the embeddings that the network gets: as they are, or what their encoder makes of them."""
    x = tree["embeddings"]
    for layer in tree.get("lstm", ()):
        forward, backward = (_lstm(x, layer[side], reverse=side == "backward") for side in ("forward", "backward"))
        x = jnp.concatenate([forward, backward], axis=-1)
    if "hidden" not in tree:
        return x
    activation = jax.nn.relu if "lstm" in tree else jnp.tanh
    inner = activation(exact(x, tree["hidden"]["kernel"]) + tree["hidden"]["bias"])
    return exact(inner, tree["out"]["kernel"]) + tree["out"]["bias"]


def _lstm(x: Float[Array, "P C"], leaves: PyTree, reverse: bool) -> Float[Array, "P H"]:
    """One direction of an LSTM over the slots (Hochreiter & Schmidhuber 1997), the gates in torch's order."""

    def turn(carry: tuple[Array, Array], gates: Array) -> tuple[tuple[Array, Array], Array]:
        hidden, cell = carry
        into, forget, fresh, out = jnp.split(gates + exact(hidden[None], leaves["recurrent"])[0], 4, axis=-1)
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(into) * jnp.tanh(fresh)
        hidden = jax.nn.sigmoid(out) * jnp.tanh(cell)
        return (hidden, cell), hidden

    zeros = jnp.zeros(leaves["recurrent"].shape[0])
    return lax.scan(turn, (zeros, zeros), exact(x, leaves["kernel"]) + leaves["bias"], reverse=reverse)[1]


def _init_lstm(key: Array, width: int, hidden: int) -> list[PyTree]:
    """Two layers, both directions, uniform within 1 / sqrt(hidden), as torch draws them."""

    def side(key: Array, inputs: int) -> PyTree:
        shapes = {"kernel": (inputs, 4 * hidden), "recurrent": (hidden, 4 * hidden), "bias": (4 * hidden,)}
        keys = jax.random.split(key, len(shapes))
        return {
            name: jax.random.uniform(one, shape, minval=-1.0, maxval=1.0) * hidden**-0.5
            for (name, shape), one in zip(shapes.items(), keys, strict=True)
        }

    keys = jax.random.split(key, 4)
    layers = [
        {"forward": side(keys[2 * n], inputs), "backward": side(keys[2 * n + 1], inputs)}
        for n, inputs in enumerate((width, 2 * hidden))
    ]
    return layers


def _init_mlp(key: Array, inputs: int, hidden: int, start: Float[Array, "P E"]) -> PyTree:
    """An MLP whose outputs are near the mean of `start`, as far from it as the rows of `start` are."""
    key_hidden, key_out = jax.random.split(key)
    scale = start.std(0).mean() / hidden**0.5
    size = jnp.sqrt(jnp.mean(start**2) * inputs) if inputs == start.shape[1] else inputs**0.5
    return {
        "hidden": {"kernel": jax.random.normal(key_hidden, (inputs, hidden)) / size, "bias": jnp.zeros(hidden)},
        "out": {"kernel": jax.random.normal(key_out, (hidden, start.shape[1])) * scale, "bias": start.mean(0)},
    }


METHOD = Declaration(
    name="prompt",
    title="Prompt tuning",
    section=Prompt.section,
    build=method,
    kind=lambda section, share: "prompt",
    label=lambda section, share: length_label("prompt", section, "none"),
    ranges={"at least 1": ("length", "hidden")},
    choices={"reparameterisation": ("none", "mlp", "lstm"), "initialisation": ("random", "vocabulary", "text")},
    examples=(
        ("prompt 20", {"length": 20}),
        ("prompt 20 through an MLP of 512", {"reparameterisation": "mlp"}),
        ("prompt 20 through an LSTM of 512", {"reparameterisation": "lstm"}),
    ),
)
