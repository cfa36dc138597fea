"""BART as transformers saves it: the loader's tree is the one that the tests make of the network by themselves."""

import jax
import numpy as np
import pytest

from prefix_jax.errors import UserError
from prefix_jax.models import from_hf
from prefix_jax.models.pretrained import load
from tests.models import torch_models as tm


@pytest.mark.parametrize("options", [{}, {"scale_embedding": True}])
def test_every_number_arrives_in_its_place(options, tmp_path):
    pair = tm.bart(**options)
    pair.torch.save_pretrained(tmp_path)
    loaded = load(str(tmp_path))
    assert loaded.model_config == pair.model_config
    jax.tree.map(np.testing.assert_array_equal, loaded.params, dict(pair.variables["params"]))


def test_other_numbers_of_heads_are_refused():
    config = tm.bart().torch.config.to_dict()
    with pytest.raises(UserError, match="4 heads in the encoder and 3 in the decoder"):
        from_hf({**config, "decoder_attention_heads": 3})
