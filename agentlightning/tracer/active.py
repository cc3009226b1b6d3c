"""The active tracer: the one that emitters write to, per context and never per process.

It is a context variable, so concurrent tasks, and threads that carry a copied context, each see
their own. A plain `threading.Thread` starts with an empty context and sees none; run its target
through `contextvars.copy_context().run` to carry the tracer along.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    from agentlightning.tracer.base import Tracer

__all__ = [
    "clear_active_tracer",
    "get_active_tracer",
    "set_active_tracer",
    "swap_active_tracer",
    "with_active_tracer_context",
]

_ACTIVE: ContextVar["Tracer | None"] = ContextVar("agentlightning_active_tracer", default=None)

P = ParamSpec("P")
T = TypeVar("T")
TracerT = TypeVar("TracerT", bound="Tracer")


def get_active_tracer() -> "Tracer | None":
    """Return the tracer of the current context, or None."""
    return _ACTIVE.get()


def set_active_tracer(tracer: "Tracer") -> None:
    """Make `tracer` the active one of the current context, until it is cleared.

    Raises:
        ConfigurationError: One is active here already.
    """
    if _ACTIVE.get() is not None:
        raise ConfigurationError("A tracer is active in this context: call clear_active_tracer().")
    _ACTIVE.set(tracer)


def clear_active_tracer() -> None:
    """Leave the current context without a tracer; harmless when it has none."""
    _ACTIVE.set(None)


def swap_active_tracer(tracer: "Tracer | None") -> "Tracer | None":
    """Replace the current context's tracer and return the one before, to be put back later."""
    previous = _ACTIVE.get()
    _ACTIVE.set(tracer)
    return previous


class _ActiveWhile(AbstractAsyncContextManager[T], Generic[T]):
    """An async context manager during which a tracer is active."""

    def __init__(self, tracer: "Tracer", inner: AbstractAsyncContextManager[T]) -> None:
        self._tracer = tracer
        self._inner = inner
        self._previous: Tracer | None = None

    async def __aenter__(self) -> T:
        self._previous = swap_active_tracer(self._tracer)
        try:
            return await self._inner.__aenter__()
        except BaseException:
            swap_active_tracer(self._previous)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        try:
            return await self._inner.__aexit__(kind, error, traceback)
        finally:
            swap_active_tracer(self._previous)


def with_active_tracer_context(
    method: Callable[Concatenate[TracerT, P], AbstractAsyncContextManager[T]],
) -> Callable[Concatenate[TracerT, P], AbstractAsyncContextManager[T]]:
    """Decorate a tracer's `trace_context` so that the tracer is active inside it."""

    @functools.wraps(method)
    def wrapped(self: TracerT, *args: P.args, **kwargs: P.kwargs) -> Any:
        return _ActiveWhile(self, method(self, *args, **kwargs))

    return wrapped
