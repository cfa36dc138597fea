"""Names of topologies, and what is said of those that are none."""

import sys

import pytest

from prefix_jax.errors import UserError
from prefix_jax.planning import topologies


@pytest.mark.parametrize(("name", "chips"), [("v5e:4x4", 16), ("v6e:16x16", 256), ("v5p:2x2x1", 4)])
def test_a_name_is_a_chip_and_a_shape(name, chips):
    assert topologies.parse(name).chips == chips


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v5f:4x4", 'there is no TPU "v5f"; did you mean "v5'),
        ("v5e", "name a chip and a shape, such as v5e:4x4"),
        ("v5e:4x4x4", "its shape has 2 axes"),
        ("v5e:32x32", "has 1024 chips, and a pod of v5e has 256"),
    ],
)
def test_what_is_no_topology_is_refused(name, words):
    with pytest.raises(UserError, match=words):
        topologies.parse(name)


def test_without_libtpu_the_mend_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(UserError, match=r"libtpu.*pip install 'prefix_jax\[plan\]'"):
        topologies.devices(topologies.parse("v5e:2x2"))
