"""Every public name has a docstring with an example that runs."""

import doctest
import inspect

import jax
import pytest

import prefix_jax as pj
from prefix_jax import api
from tests.api.conftest import PAIRS

CONSTRUCTED = {"MethodOptions", "PrefixKV", "UserError"}  # shown in the examples of other names


@pytest.mark.parametrize("name", api.__all__)
def test_the_example_of(name: str, lm, tuned, model_dir, tmp_path):
    thing = getattr(pj, name)
    assert inspect.getdoc(thing), name
    names = {"pj": pj, "jax": jax, "lm": lm, "tuned": tuned, "model_dir": model_dir, "tmp": tmp_path,
             "pairs": PAIRS[:16], "test_pairs": PAIRS[16:20], "History": pj.History}  # fmt: skip
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    own = inspect.unwrap(thing) if not inspect.isclass(thing) else thing
    found = doctest.DocTestFinder(exclude_empty=True).find(own, name, globs=names, module=False)
    examples = [test for test in found if test.examples]
    assert examples or name in CONSTRUCTED, f"{name} has no example"
    said: list[str] = []
    for test in examples:
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
