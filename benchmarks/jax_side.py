"""This project's side: its own session, batches, step and decoding, on the rows that the other side gets."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.files import Row
from benchmarks.rows import as_set, configuration
from prefix_jax import decoding, tuning
from prefix_jax.data.batching import Batch, Layout, PackedBatches
from prefix_jax.training import session
from prefix_jax.training.loss import loss_sums
from prefix_jax.training.optimizer import hyperparameters_from
from prefix_jax.training.step import initial_state, make_step


class Ours:
    """A frozen model with a prefix through the MLP, of the width that PEFT gives its own."""

    def __init__(self, source: str, dtype: str, length: int = 10, hidden: int = 512, sites: str = "all"):
        self.session = session.open_session(configuration(source, dtype, length, hidden, sites))
        model_config, config = self.session.model_config, self.session.config
        config.prefix.embedding = model_config.kv_heads * model_config.head_dim
        self.method = tuning.build(config, self.session.model)
        self.hyper = hyperparameters_from(config.optimizer, 10_000)
        self.state = initial_state(self.method, self.session.base, self.hyper, seed=0, ema=0.0)
        self._step = make_step(self.session.model, self.method)

    @property
    def encoder_decoder(self) -> bool:
        return self.session.model_config.is_encoder_decoder

    def batches(self, rows: list[Row], batch: int = 16, row_length: int = 0) -> PackedBatches:
        """Returns the rows packed as training packs them."""
        model_config = self.session.model_config
        layout = Layout.of(model_config)
        return PackedBatches(as_set(rows), layout, batch, row_length=row_length, shuffle=False)

    def step(self, batch: Batch) -> float:
        """Takes one training step; returns the loss."""
        self.state, metrics = self._step(self.session.base, self.hyper, self.state, batch)
        return float(metrics["loss"])

    def compiled_step(self, batch: Batch) -> str:
        """Returns the text of the compiled step."""
        return self._step.lower(self.session.base, self.hyper, self.state, batch).compile().as_text()

    def sums_and_gradients(self, layers: list[int] | None = None) -> Any:
        """`(trainable, base, batch) -> ((sum of losses, sum of weights), gradients of the first)`, compiled.

        `layers` rearranges the decoder's prefix: layer i reads the slots of `layers[i]`.
        """

        def loss(trainable: Any, base: Any, batch: Batch) -> Any:
            variables, prefix = self.method.materialise(trainable, base, None)
            if layers is not None:
                site = prefix.decoder
                site = site.replace(key=site.key[jnp.asarray(layers)], value=site.value[jnp.asarray(layers)])
                prefix = prefix.replace(decoder=site)
            return loss_sums(self.session.model, variables, prefix, batch)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    def generate(self, sources: list[list[int]], beams: int, new_tokens: int) -> list[list[int]]:
        """Returns the new tokens of a batch of inputs."""
        strategy = "beam" if beams > 1 else "greedy"
        options = decoding.GenerationConfig(
            strategy=strategy, beams=beams, max_length=new_tokens, min_length=new_tokens - 1
        )
        return decoding.decode_all(
            self.session.model, self.session.base, self.prefix, sources, options, batch=len(sources)
        )

    @functools.cached_property
    def prefix(self) -> Any:
        return jax.jit(lambda t, b: self.method.materialise(t, b, None))(self.state.trainable, self.session.base)[1]


def target_tokens(batch: Batch) -> int:
    return int(np.asarray(batch.weights).sum())
