"""What checkpoints of every decoder-only family may look like: types of numbers, wrappers, and an output matrix that is
tied to the embedding or not, stored or not.
"""

import functools

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from prefix_jax.errors import UserError
from prefix_jax.models import FAMILIES, build, from_hf
from prefix_jax.models.decoder_only import DecoderOnly
from prefix_jax.models.leaves import cast, from_array
from prefix_jax.models.pretrained.loading import flatten, unflatten
from prefix_jax.models.pretrained.mapping import to_tree
from tests.models import torch_models as tm
from tests.models.torch_models import torch
from tests.parity.cases import of_family

TYPES = (np.float16, ml_dtypes.bfloat16, np.float32)
WRAPPERS = ("_orig_mod.", "model.", "module.", "module._orig_mod.")
DECODERS = sorted(name for name, family in FAMILIES.items() if issubclass(family.network, DecoderOnly))


@functools.cache
def case(family: str):
    """A random network of transformers for a family, and its tensors in float32."""
    pair = next(iter(of_family(family).values())).pair()
    return pair.torch, {name: value.detach().numpy() for name, value in pair.torch.state_dict().items()}


def numbers(family: str, table: dict[str, np.ndarray], **options) -> dict[str, np.ndarray]:
    """The parameters that a checkpoint of these tensors gives, in float32, by path."""
    model_config = from_hf({**case(family)[0].config.to_dict(), **options})
    tree = to_tree(model_config, {name: from_array(value) for name, value in table.items()})
    return {path: cast(leaf, np.float32).all() for path, leaf in flatten(tree).items()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.mark.parametrize("family", DECODERS)
def test_types_of_numbers_may_differ_from_tensor_to_tensor(family):
    _, state = case(family)
    mixed = {name: value.astype(TYPES[i % 3]) for i, (name, value) in enumerate(state.items())}
    rounded = {name: value.astype(np.float32) for name, value in mixed.items()}
    assert_same(numbers(family, mixed), numbers(family, rounded))


@pytest.mark.parametrize("family", DECODERS)
def test_wrappers_are_taken_off(family):
    _, state = case(family)
    expected = numbers(family, state)
    for wrapper in WRAPPERS:
        assert_same(numbers(family, {wrapper + name: value for name, value in state.items()}), expected)


def split(family: str) -> tuple[str, str, dict[str, np.ndarray]]:
    """The names of embedding and output matrix, and the other tensors."""
    _, state = case(family)
    embedding = next(
        name for name in state if name.split(".")[-2] in ("embed_tokens", "embed_in", "word_embeddings", "wte")
    )
    head = "embed_out.weight" if "embed_out.weight" in state else "lm_head.weight"
    return embedding, head, {name: value for name, value in state.items() if name not in (embedding, head)}


@pytest.mark.parametrize("family", DECODERS)
def test_the_output_matrix_is_tied_or_not_and_stored_or_not(family):
    embedding, head, rest = split(family)
    rows = case(family)[1][embedding]
    tied = numbers(family, {**rest, embedding: rows}, tie_word_embeddings=True)
    for stored in ({embedding: rows, head: rows}, {head: rows}):
        assert_same(numbers(family, {**rest, **stored}, tie_word_embeddings=True), tied)
    own = numbers(family, {**rest, embedding: rows, head: rows + 1}, tie_word_embeddings=False)
    np.testing.assert_array_equal(own["head/tokens"], rows + 1)
    with pytest.raises(UserError, match="without its head"):
        numbers(family, {**rest, embedding: rows}, tie_word_embeddings=False)


@pytest.mark.parametrize("family", ["gpt_neox", "gptj", "phi"])
def test_a_tied_output_matrix_parity(family):
    """Of families whose published models have none tied, with a bias in the output or without."""
    theirs, state = case(family)
    config = type(theirs.config)(**{**theirs.config.to_dict(), "tie_word_embeddings": True})
    network = type(theirs)(config).eval()
    network.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    network.tie_weights()
    tokens = np.arange(3, 15)[None]
    with torch.no_grad():
        expected = network(torch.tensor(tokens)).logits.numpy()
    _, head, _ = split(family)
    stored = {name: value.numpy() for name, value in network.state_dict().items() if name != head}
    params = unflatten({path: jnp.asarray(v) for path, v in numbers(family, stored, tie_word_embeddings=True).items()})
    model = build(from_hf(network.config.to_dict()))
    found = tm.jit(lambda params: model.apply({"params": params}, tokens))(params)
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=2e-5)
