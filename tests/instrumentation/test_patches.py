"""Replaced attributes come back, in whatever order their users leave."""

import sys
import types

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.instrumentation.patches import Patches, is_installed, require_library


class Theirs:
    """A class of somebody else's."""

    @classmethod
    def name(cls) -> str:
        return cls.__name__

    def size(self) -> int:
        return 1


def larger(original):
    return lambda self: original(self) + 10


def test_the_last_user_takes_the_replacement_away():
    """It is made once for all users, and the original is back as it was."""
    before = vars(Theirs)["size"]
    patches = Patches(lambda: [(Theirs, "size", larger)])
    patches.use()
    patches.use()
    assert Theirs().size() == 11
    patches.release()
    assert Theirs().size() == 11
    patches.release()
    patches.release()
    assert vars(Theirs)["size"] is before


def test_class_methods_stay_class_methods():
    """What is put back is the descriptor, not what it gives."""
    before = vars(Theirs)["name"]
    patches = Patches(lambda: [(Theirs, "name", lambda _: staticmethod(lambda: "ours"))])
    patches.use()
    assert Theirs.name() == "ours"
    patches.release()
    assert vars(Theirs)["name"] is before
    assert Theirs.name() == "Theirs"


def test_what_others_replaced_since_stays():
    """A replacement that is no longer on top is left to who is."""
    before = vars(Theirs)["size"]
    patches = Patches(lambda: [(Theirs, "size", larger)])
    patches.use()
    Theirs.size = lambda self: 100  # type: ignore[method-assign]
    patches.release()
    assert Theirs().size() == 100
    Theirs.size = before  # type: ignore[method-assign]


def test_it_waits_for_a_module(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """Nothing is imported for it; once the module is, the replacement is there."""
    (tmp_path / "slow_library.py").write_text("def answer():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)

    def make():
        return [(sys.modules["slow_library"], "answer", lambda original: lambda: original() + 1)]

    patches = Patches(make, after="slow_library")
    patches.use()
    assert "slow_library" not in sys.modules
    import slow_library  # pyright: ignore[reportMissingImports]  # Made above.

    assert slow_library.answer() == 2
    assert type(slow_library.__spec__.loader).__name__ == "SourceFileLoader"
    patches.release()
    assert slow_library.answer() == 1
    del sys.modules["slow_library"]
    patches.use()
    patches.release()
    import slow_library  # pyright: ignore[reportMissingImports]  # Made above.

    assert slow_library.answer() == 1
    monkeypatch.delitem(sys.modules, "slow_library")


def test_which_libraries_are_there():
    """A library whose parent package is missing is missing too."""
    assert is_installed("json")
    assert not is_installed("no_such_package.part")
    require_library("json")
    with pytest.raises(ConfigurationError, match="no_such_package is not installed"):
        require_library("no_such_package")
    assert isinstance(sys, types.ModuleType)
