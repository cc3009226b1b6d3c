"""Taking wrappers off a library's methods that an instrumentation put there and left there.

Instrumentations wrap methods with `wrapt`. Some take them off by names that moved in the library
since, which fails without a word; the next switching on would then record every call twice.
"""

import operator
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["strip_wrappers"]

_wrapper_of = operator.attrgetter("_self_wrapper")


def strip_wrappers(library: str, instrumentation: str) -> int:
    """Take off the wrappers that one package left on another's classes.

    A wrapper that somebody else has wrapped since stays.

    Args:
        library: Package whose loaded modules are searched.
        instrumentation: Package that the wrappers were written in.

    Returns:
        How many were taken off.
    """
    wrapt: Any = sys.modules.get("wrapt")
    if wrapt is None:
        return 0
    count = 0
    for owner in _classes(library):
        for name, value in list(vars(owner).items()):
            kept = value
            while issubclass(type(kept), wrapt.ObjectProxy) and _is_from(kept, instrumentation):
                kept = kept.__wrapped__
            if kept is not value:
                setattr(owner, name, kept)
                count += 1
    return count


def _classes(library: str) -> Iterator[type]:
    """Yield the classes that the loaded modules of a package define."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == library:
            # Some modules put other objects in their place.
            for value in list(getattr(module, "__dict__", {}).values()):
                # Not `isinstance`, which makes the proxies of lazy modules load what they stand for.
                if issubclass(type(value), type) and value.__module__ == name:
                    yield value


def _is_from(proxy: Any, package: str) -> bool:
    try:
        module = _wrapper_of(proxy).__module__
    except AttributeError:
        return False
    return f"{module}.".startswith(f"{package}.")
