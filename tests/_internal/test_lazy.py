"""Lazy exports of a package."""

import importlib
import sys
from collections.abc import Generator
from pathlib import Path

import pytest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[str, None, None]:
    """A package `lazybox` that offers a class, a renamed function and a submodule."""
    root = tmp_path / "lazybox"
    root.mkdir()
    (root / "__init__.py").write_text(
        "from agentlightning._internal.lazy import lazy_exports\n"
        "__getattr__, __dir__ = lazy_exports(__name__, {\n"
        "    'Thing': 'lazybox.inner', 'renamed': 'lazybox.inner:original',\n"
        "    'inner': 'lazybox.inner'})\n"
    )
    (root / "inner.py").write_text("class Thing: ...\ndef original(): return 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "lazybox"
    for name in [name for name in sys.modules if name.startswith("lazybox")]:
        del sys.modules[name]


def test_modules_load_when_a_name_is_used(package: str):
    """Importing the package loads nothing; using a name loads its module and remembers it."""
    box = importlib.import_module(package)
    assert "lazybox.inner" not in sys.modules
    assert box.Thing.__module__ == "lazybox.inner"
    assert vars(box)["Thing"] is box.Thing


def test_names_may_be_renamed_or_be_the_submodule(package: str):
    """An export can have another name inside, or be the module itself."""
    box = importlib.import_module(package)
    assert box.renamed() == 7
    assert box.inner is sys.modules["lazybox.inner"]


def test_listing_shows_everything_and_unknown_names_raise(package: str):
    """`dir` lists what can be had, and the rest raises as usual."""
    box = importlib.import_module(package)
    assert {"Thing", "renamed", "inner"} <= set(dir(box))
    with pytest.raises(AttributeError, match="nothing"):
        _ = box.nothing
