"""The proof before any timing: the same numbers in both prefixes give the same loss and the same gradients.

On T5, PEFT spreads its slots over the wrong layers and gives them a relative position bias. The proof follows the
first (decoder layer i reads the slots of layer 2 i modulo the number of layers) and does without the second: the
decoder's table of biases is set to zero on both sides. Everything else of the model takes part as it is.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.files import training_rows
from benchmarks.jax_side import Ours
from benchmarks.peft_side import Peft, arrays, load_mlp, mlp_gradients, opened

TOLERANCE = 1e-4


def check(source: str, folder: Path, rows: int = 8) -> dict[str, float]:
    """Returns both losses, and the largest difference of a gradient relative to its tensor's largest number.

    Raises:
      AssertionError: they differ by more than float32 allows.
    """
    ours, theirs = Ours(source, "float32", sites="decoder"), opened(folder, "float32")
    records = training_rows(folder, rows)
    base, layers = ours.session.base, None
    if ours.encoder_decoder:
        count = ours.session.model_config.layers
        layers = [2 * i % count for i in range(count)]
        base = _without_bias(base, theirs)
    leaves = ours.state.trainable["decoder"]
    load_mlp(theirs, leaves)
    expected = theirs.loss(records)
    expected.backward()
    loss, gradients = _ours(ours, base, records, layers)
    found = dict(loss=float(loss), peft_loss=float(expected.detach()))
    pairs = zip(arrays(gradients["decoder"]), mlp_gradients(theirs), strict=True)
    found["gradient_difference"] = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    assert abs(found["loss"] - found["peft_loss"]) <= TOLERANCE, found
    assert found["gradient_difference"] <= TOLERANCE * 10, found
    return found


def _ours(ours: Ours, base: Any, records: list, layers: list[int] | None) -> tuple[Any, Any]:
    """The loss and its gradients, summed over packed batches of which each record is in one."""
    packed = ours.batches(records, batch=len(records))
    totals = None
    for batch in packed.epoch():
        value = ours.sums_and_gradients(layers)(ours.state.trainable, base, batch)
        totals = value if totals is None else jax.tree.map(jnp.add, totals, value)
    (total, weight), gradients = totals
    return total / weight, jax.tree.map(lambda g: np.asarray(g / weight), gradients)


def _without_bias(base: Any, theirs: Peft) -> Any:
    torch_decoder = theirs.model.get_base_model().decoder
    torch_decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.data.zero_()
    params = dict(base["params"])
    params["decoder"] = {**params["decoder"], "relative_bias": jnp.zeros_like(params["decoder"]["relative_bias"])}
    return {"params": params}
