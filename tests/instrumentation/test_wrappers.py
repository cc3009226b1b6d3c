"""Wrappers that an instrumentation left behind are taken off, others' are not."""

import sys
import types

import wrapt

from agentlightning.instrumentation.wrappers import strip_wrappers


def wrapper_from(module: str):
    def wrapper(wrapped, instance, args, kwargs):
        return wrapped(*args, **kwargs) + 1

    wrapper.__module__ = module
    return wrapper


def test_only_the_named_packages_wrappers_go(monkeypatch):
    """Below somebody else's, and of packages whose names merely begin alike, they stay."""
    library = types.ModuleType("some_library.part")

    class Client:
        def one(self):
            return 1

        def two(self):
            return 2

        def three(self):
            return 3

    Client.__module__ = library.__name__
    library.Client = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, library.__name__, library)
    wrapt.wrap_function_wrapper(Client, "one", wrapper_from("traced.openai.v1"))
    wrapt.wrap_function_wrapper(Client, "one", wrapper_from("traced"))
    wrapt.wrap_function_wrapper(Client, "two", wrapper_from("traced"))
    wrapt.wrap_function_wrapper(Client, "two", wrapper_from("theirs"))
    wrapt.wrap_function_wrapper(Client, "three", wrapper_from("traced_otherwise"))
    assert strip_wrappers("some_library", "traced") == 1
    assert (Client().one(), Client().two(), Client().three()) == (1, 4, 4)
