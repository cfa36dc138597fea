"""The public names: loaded late, in step with the methods, and shown briefly."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import prefix_jax as pj
from prefix_jax import api, tuning
from prefix_jax.tuning import METHODS
from tests.conftest import ROOT

OPTIONS = [thing for name in api.__all__ if issubclass(thing := type(getattr(pj, name)), type)
           and issubclass(thing := getattr(pj, name), pj.MethodOptions) and thing is not pj.MethodOptions]  # fmt: skip


def test_the_package_loads_nothing_until_a_name_is_used():
    code = (
        "import time; start = time.perf_counter(); import prefix_jax, sys; took = time.perf_counter() - start\n"
        "assert {'jax', 'numpy', 'prefix_jax.api'}.isdisjoint(sys.modules), 'JAX was loaded'\n"
        "assert 'tune' in dir(prefix_jax); print(took)"
    )
    done = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT) for _ in range(3)]
    assert not done[0].returncode, done[0].stderr
    assert min(float(one.stdout) for one in done) < 0.2


def test_the_lazy_names_are_those_of_the_api():
    assert pj.__all__ == api.__all__
    assert all(getattr(pj, name) is getattr(api, name) for name in api.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        pj.no_such_name  # noqa: B018


def test_every_method_has_a_class_with_its_section():
    assert {kind.method for kind in OPTIONS} == set(METHODS)
    for kind in OPTIONS:
        assert kind.section() == METHODS[kind.method].section() == dataclasses.asdict(kind())
        documented = "".join(base.__doc__ or "" for base in kind.__mro__)
        for name in kind.section():
            assert f"\n      {name}: " in documented, f"{kind.__name__}.{name} is not documented"


def test_methods_are_joined():
    both = pj.Prefix(length=3) | pj.LoRA() | pj.Adapter(width=2)
    assert repr(both) == "Prefix(length=3) | LoRA() | Adapter(width=2)"
    assert api.configuring.method_name(both) == "prefix+lora+adapter"
    assert isinstance(both, tuning.Together) and len(both.parts) == 3


def test_what_is_shown_is_short(lm, tuned):
    from prefix_jax.training.loop import Outcome
    from prefix_jax.training.trainer import Member

    member = Member(None, Path("runs/mine"), None, None, {})  # type: ignore[arg-type]
    outcome = Outcome(member, 4, True, tuned.variables, 2.0)
    assert repr(outcome) == "Outcome(finished at step 4, 2 s, 'runs/mine')"
    assert repr(lm._session) == f"Session(model={str(lm.source)!r}, method='prefix')"
    for thing in (lm, tuned, tuned.plot(), tuned.evaluate([("a : b", "b")], max_length=2)):
        assert len(repr(thing)) < 200 and "array" not in repr(thing).lower()
    assert "<table>" in lm._repr_html_() and "<svg" in tuned._repr_html_() and "Prefix tuning" in tuned._repr_html_()
