"""Attention Matching against the paper's equations, on small matrices."""

import itertools

import numpy as np
import pytest
from scipy import optimize

from prefix_jax.distillation import closed_form

M, N, D = 240, 24, 8


@pytest.fixture(scope="module")
def head():
    """Queries, keys and values of one head; keys are near those of others, as a document's are."""
    rng = np.random.default_rng(3)
    query, near, key, value = (rng.normal(size=(rows, D)) for rows in (M, 6, N, N))
    return query, near[np.arange(N) % 6] + 0.3 * key, value


def outputs(query, key, value, bias=0.0):
    """Attention and its mass, in the plainest form."""
    exponentials = np.exp(query @ key.T + bias)
    mass = exponentials.sum(1)
    return mass, exponentials @ value / mass[:, None]


def test_as_many_slots_as_tokens_are_the_document(head):
    query, key, value = head
    found = closed_form.solve(*head, N)
    assert found.places.tolist() == list(range(N))
    np.testing.assert_allclose(found.bias, 0, atol=1e-6)
    np.testing.assert_allclose(found.value, value, atol=1e-6)
    np.testing.assert_array_equal(found.key, key)


def test_keys_are_those_with_the_largest_attention(head):
    query, key, _ = head
    attention = np.exp(query @ key.T)
    attention /= attention.sum(1, keepdims=True)
    places = closed_form.choose(attention, 6, kept=0)
    scores = np.sqrt((attention**2).mean(0))
    assert scores[places].min() >= np.delete(scores, places).max()
    largest = closed_form.choose(attention, 6, score="max", kept=0)
    assert attention.max(0)[largest].min() >= np.delete(attention.max(0), largest).max()


def test_the_first_token_is_always_a_slot(head):
    query, key, value = head
    unseen = np.concatenate([-10 * query.mean(0, keepdims=True), key[1:]])
    unseen[0] -= 100 * np.sign(query).mean(0)
    for slots in (1, 5):
        assert closed_form.solve(query, unseen, value, slots).places[0] == 0


def test_weights_are_non_negative_least_squares_of_the_mass(head):
    """Without bounds that bind, they are those of scipy on the whole system."""
    query, key, _ = head
    exponentials = np.exp(query @ key.T)
    mass = exponentials.sum(1)
    chosen = exponentials[:, :7]
    expected, _ = optimize.nnls(chosen, mass)
    found = closed_form.slot_weights(chosen, mass, (0.0, 1e9))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    low, high = 0.5, 1.5
    bounded = closed_form.slot_weights(chosen, mass, (low, high))
    assert low <= bounded.min() and bounded.max() <= high


def test_values_are_least_squares_of_the_outputs(head):
    query, key, value = head
    found = closed_form.solve(*head, 6)
    _, expected_output = outputs(query, key, value)
    weights = np.exp(query @ found.key.T + found.bias)
    weights /= weights.sum(1, keepdims=True)
    best = np.linalg.lstsq(weights, expected_output, rcond=None)[0]
    np.testing.assert_allclose(found.value, best, atol=1e-6)


def test_the_mass_is_restored_and_more_slots_have_smaller_errors(head):
    """Keys alone, as a cache from which tokens are evicted, lose much of the mass and of the output."""
    query, key, value = head
    found = [closed_form.errors(*head, closed_form.solve(*head, slots)) for slots in (2, 4, 8, 16, N)]
    for smaller, larger in itertools.pairwise(found):
        assert larger[0] < smaller[0] and larger[1] < smaller[1]
    assert found[-1][0] < 1e-6 and found[-1][1] < 1e-6
    slots = closed_form.solve(*head, 8)
    top, _, mass = closed_form.masses(query, key)
    lost = lambda bias: np.linalg.norm(closed_form.attend(query, slots._replace(bias=bias), top)[0] - mass)
    assert lost(slots.bias) < 0.7 * lost(np.zeros(8))
    evicted = slots._replace(bias=np.zeros(8), value=value[slots.places])
    assert found[2][1] < 0.8 * closed_form.errors(*head, evicted)[1]


def test_errors_are_those_of_plain_attention(head):
    query, key, value = head
    slots = closed_form.solve(*head, 5)
    (mass, output), (own_mass, own) = outputs(*head), outputs(query, slots.key, slots.value, slots.bias)
    expected = np.sqrt(np.mean((own_mass / mass - 1) ** 2)), np.linalg.norm(own - output) / np.linalg.norm(output)
    np.testing.assert_allclose(closed_form.errors(*head, slots), expected, rtol=1e-6)


def test_attention_over_slots_and_a_text_is_that_over_document_and_text(head):
    """What the mass is for: a text's keys get the share that they would have beside the document."""
    query, key, value = head
    rng = np.random.default_rng(5)
    more_key, more_value = rng.normal(size=(2, 4, D))
    slots = closed_form.solve(*head, N)
    _, expected = outputs(query, np.concatenate([key, more_key]), np.concatenate([value, more_value]))
    joined = np.concatenate([slots.key, more_key]), np.concatenate([slots.value, more_value])
    _, found = outputs(query, *joined, np.concatenate([slots.bias, np.zeros(4)]))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_soft_cap_is_part_of_the_logits(head):
    query, key, value = head
    slots = closed_form.solve(*head, N, cap=2.0)
    logits = 2 * np.tanh(query @ key.T / 2)
    attention = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    _, weights = closed_form.attend(query, slots, logits.max(1, keepdims=True), 2.0)
    np.testing.assert_allclose(weights @ slots.value, attention @ value, atol=1e-6)
