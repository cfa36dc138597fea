"""Gradients of families built of the parts of others are compared by night (`make nightly`)."""

import pytest

from tests.parity.cases import ALIKE, CASES


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        case = getattr(item, "callspec", None) and item.callspec.params.get("calls")
        if item.name.startswith("test_prefix_gradients_parity") and case in CASES and CASES[case].family in ALIKE:
            item.add_marker(pytest.mark.nightly)
