"""The examples in docstrings are true."""

import doctest
import importlib

import pytest

from scripts.source import PACKAGE, python_files

MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in python_files("agentlightning")
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module_name", MODULES)
def test_docstring_examples_hold(module_name: str):
    """Every `>>>` line gives what the docstring shows."""
    results = doctest.testmod(importlib.import_module(module_name))
    assert results.attempted > 0
    assert results.failed == 0
