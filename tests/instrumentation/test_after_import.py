"""Something happens to a module after its import, which is not brought about."""

import sys

import pytest

from agentlightning.instrumentation.after_import import AfterImport


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path) -> str:
    (tmp_path / "late_library.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "late_library", raising=False)
    return "late_library"


def test_at_once_where_it_is_imported():
    """A module that is there is not waited for."""
    seen: list[int] = []
    AfterImport("json", lambda: seen.append(1)).start()
    assert seen == [1]


def test_after_the_import(library: str):
    """The module is whole when the action runs, which it does once."""
    seen: list[int] = []
    finders = list(sys.meta_path)
    waiting = AfterImport(library, lambda: seen.append(sys.modules[library].value))
    waiting.start()
    waiting.start()
    assert seen == []
    __import__(library)
    assert seen == [1]
    assert sys.meta_path == finders


def test_cancelled(library: str):
    """Who stops waiting hears nothing, and nothing stays behind."""
    seen: list[int] = []
    finders = list(sys.meta_path)
    waiting = AfterImport(library, lambda: seen.append(1))
    waiting.start()
    waiting.cancel()
    waiting.cancel()
    __import__(library)
    assert (seen, sys.meta_path) == ([], finders)


def test_a_module_that_is_not_there(library: str):
    """Its absence is reported as ever."""
    waiting = AfterImport("no_such_module", lambda: None)
    waiting.start()
    with pytest.raises(ModuleNotFoundError):
        __import__("no_such_module")
    waiting.cancel()
