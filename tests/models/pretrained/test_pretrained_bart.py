"""BART and the families with its layers as transformers saves them: the loader's tree is the one that the tests make of
the network by themselves.
"""

import jax
import numpy as np
import pytest

from prefix_jax.errors import UserError
from prefix_jax.models import from_hf
from prefix_jax.models.families.bart_like import sinusoid
from prefix_jax.models.pretrained import load
from tests.models import torch_models as tm
from tests.models.torch_models import torch


@pytest.mark.parametrize("family", tm.BART_LIKE)
@pytest.mark.parametrize("bare", [False, True], ids=["with its head", "without"])
def test_every_number_arrives_in_its_place(family, bare, tmp_path):
    """Without the head, whose bias is then zeros as in transformers."""
    pair = tm.bart_like(tm.BART_LIKE[family], scale_embedding=bare)
    (pair.torch.model if bare else pair.torch).save_pretrained(tmp_path)
    loaded = load(str(tmp_path))
    expected = dict(pair.variables["params"])
    if bare and "logits_bias" in expected:
        expected["logits_bias"] = np.zeros(61, np.float32)
    assert loaded.model_config == pair.model_config
    jax.tree.map(np.testing.assert_array_equal, loaded.params, expected)


@pytest.mark.parametrize("family", ["pegasus", "marian"])
def test_stored_sines_are_compared(family, tmp_path):
    """Published checkpoints have them as tensors; trained positions in their place are refused."""
    pair = tm.bart_like(tm.BART_LIKE[family])
    state = {name: value.clone() for name, value in pair.torch.state_dict().items()}
    pair.torch.config.save_pretrained(tmp_path)
    name = "model.encoder.embed_positions.weight"
    np.testing.assert_allclose(sinusoid(np.arange(40), 24, closed=False), state[name].numpy(), atol=1e-5)
    torch.save({**state, name: state[name].half()}, tmp_path / "pytorch_model.bin")
    load(str(tmp_path))
    state[name][3] += 0.1
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="trained positions"):
        load(str(tmp_path))


def test_embeddings_of_each_side_are_refused():
    config = tm.bart_like("Marian").torch.config.to_dict()
    with pytest.raises(UserError, match="share_encoder_decoder_embeddings=False"):
        from_hf({**config, "share_encoder_decoder_embeddings": False})


def test_other_numbers_of_heads_are_refused():
    config = tm.bart().torch.config.to_dict()
    with pytest.raises(UserError, match="4 heads in the encoder and 3 in the decoder"):
        from_hf({**config, "decoder_attention_heads": 3})
