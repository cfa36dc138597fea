"""Both real models against transformers: logits, and gradients of the loss with respect to a prefix, to 1e-4.

Both are measured against the largest number of their tensor: SmolLM2's logits reach 25, where one part in 1e-5 is
what thirty layers of float32 leave in either library.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax import tuning
from prefix_jax.config import default_config
from prefix_jax.models import build
from prefix_jax.models.pretrained import load
from prefix_jax.training.loss import token_losses
from tests.models import torch_models as tm
from tests.models.pretrained import hf
from tests.models.torch_models import torch

SOURCE = "name : The Golden Curry | food : Indian | area : riverside | family friendly : no"
TARGET = "The Golden Curry is an Indian restaurant by the riverside that is not for families."
LENGTH, TOLERANCE = 6, 1e-4


def opened(source: str):
    """The model twice, and a prefix of its own keys and values for frequent words."""
    network = hf.torch_model(source)
    network.set_attn_implementation("eager")
    found = load(source)
    base, model = {"params": found.params}, build(found.model_config)
    config = default_config()
    config.prefix.update(length=LENGTH, reparameterisation="none")
    method = tuning.build(config, model)
    prefix = method.materialise(jax.jit(method.init)(jax.random.key(0), base), base, None)[1]
    ids = [found.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (SOURCE, TARGET)]
    return network, model, base, prefix, [np.array([[*row, found.model_config.eos_id]], np.int32) for row in ids]


def ours(model, base, prefix, targets, **inputs):
    """Logits, and the gradients of the mean loss with respect to the prefix."""

    @jax.jit
    def step(base, prefix):
        def loss(trained):
            logits = model.apply(base, **inputs, prefix=tm.with_leaves(prefix, trained))
            return token_losses(logits, jnp.asarray(targets)).mean(), logits

        return jax.grad(loss, has_aux=True)(tm.differentiable(prefix))

    return step(base, prefix)


def close(found, expected, name=""):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE * max(1, np.abs(expected).max()), rtol=0, err_msg=name)


def compare(network_logits, leaves, targets, gradients, logits):
    losses = torch.nn.functional.cross_entropy(network_logits[0], torch.tensor(targets[0]).long())
    losses.backward()
    close(logits, network_logits.detach())
    for name, leaf in leaves.items():
        site, part = name.split(".")
        close(gradients[site][part], leaf.grad, name)
        assert np.abs(leaf.grad).max() > 1e-6, name


@pytest.mark.slow
def test_flan_t5_small_parity():
    network, model, base, prefix, (source, target) = opened("flan-t5-small")
    decoder = np.concatenate([[[0]], target[:, :-1]], 1)
    plain = model.apply(base, decoder, encoder_tokens=source)
    inputs = dict(input_ids=torch.tensor(source), decoder_input_ids=torch.tensor(decoder), use_cache=False)
    close(plain, network(**inputs).logits.detach())
    leaves = tm.leaves_of(prefix)
    with tm.prefix_in_attention(network, leaves, {}):
        theirs = network(**inputs).logits
    compare(theirs, leaves, target, *ours(model, base, prefix, target, tokens=decoder, encoder_tokens=source))


@pytest.mark.slow
def test_smollm2_135m_parity():
    network, model, base, prefix, (source, target) = opened("smollm2-135m")
    tokens = np.concatenate([source, target], 1)
    plain = model.apply(base, tokens)
    close(plain, network(torch.tensor(tokens)).logits.detach())
    leaves = tm.leaves_of(prefix)
    theirs = network(
        torch.tensor(tokens),
        attention_mask=tm.visible(np.ones_like(tokens), LENGTH),
        position_ids=torch.arange(tokens.shape[1])[None] + LENGTH,
        past_key_values=tm.cache_of(leaves, 1),
    ).logits
    labels = np.roll(tokens, -1, axis=1)
    compare(theirs, leaves, labels, *ours(model, base, prefix, labels, tokens=tokens))
