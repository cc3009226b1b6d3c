"""Recording operations: a function call or a block of code as one span with input and output."""

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self, TypeVar, cast, overload

from pydantic import BaseModel

from agentlightning.emitter.emission import choose_tracer
from agentlightning.errors import ConfigurationError, TracerError
from agentlightning.semconv import AGL_OPERATION, LightningSpanAttributes
from agentlightning.types.tracer import Attributes, SpanCoreFields, SpanRecordingContext
from agentlightning.utils.attributes import flatten_attributes, sanitize_attributes

__all__ = ["OperationContext", "operation", "span"]

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_NAME = LightningSpanAttributes.OPERATION_NAME.value
_INPUT = LightningSpanAttributes.OPERATION_INPUT.value
_OUTPUT = LightningSpanAttributes.OPERATION_OUTPUT.value


class OperationContext:
    """One operation: use it as a context manager, plain or async, or as a decorator of functions.

    The tracer is looked up when the operation starts, so that functions may be decorated where
    no trace is open. The object may be entered again after it was left.
    """

    def __init__(
        self, name: str | None, attributes: Mapping[str, Any], *, propagate: bool = True
    ) -> None:
        self._attributes: Attributes = {}
        for key, value in attributes.items():
            self._attributes.update(_storable(key, value))
        if name is not None:
            if _NAME in self._attributes:
                raise ConfigurationError(f"Give the name as name= or as {_NAME!r}, not as both.")
            self._attributes[_NAME] = name
        self._propagate = propagate
        self._entered: AbstractContextManager[SpanRecordingContext] | None = None
        self._recording: SpanRecordingContext | None = None

    @property
    def id(self) -> str:
        """Id of the operation's span, 16 hexadecimal characters; known once it has started.

        Raises:
            TracerError: It has not started, or its tracer makes no ids.
        """
        span_id = getattr(self._recording, "span_id", None)
        if span_id is None:
            raise TracerError("The operation has no span id: enter it first.")
        return span_id

    def set_input(self, *args: Any, **kwargs: Any) -> None:
        """Record what the operation works on."""
        for index, value in enumerate(args):
            self._record(f"{_INPUT}.args.{index}", value)
        for key, value in kwargs.items():
            self._record(f"{_INPUT}.{key}", value)

    def set_output(self, value: Any) -> None:
        """Record what the operation gave."""
        self._record(_OUTPUT, value)

    def span(self) -> SpanCoreFields:
        """Return the recorded span.

        Raises:
            TracerError: The operation has not ended.
        """
        if self._recording is None or self._entered is not None:
            raise TracerError("The operation has not ended: read its span after the with block.")
        return self._recording.get_recorded_span()

    def _record(self, prefix: str, value: Any) -> None:
        if self._recording is None:
            raise TracerError("The operation has not started: use it inside its with block.")
        self._recording.record_attributes(_storable(prefix, value))

    def __enter__(self) -> Self:
        if self._entered is not None:
            raise TracerError("The operation is under way already: make another one.")
        tracer = choose_tracer(self._propagate)
        entered = tracer.operation_context(AGL_OPERATION, attributes=dict(self._attributes))
        self._recording = entered.__enter__()
        self._entered = entered
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        entered, self._entered = self._entered, None
        return entered.__exit__(kind, error, traceback) if entered is not None else None

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self.__exit__(kind, error, traceback)

    def __call__(self, fn: FunctionT) -> FunctionT:
        """Decorate `fn`: each call is an operation of its own, with these attributes."""
        signature = inspect.signature(fn)
        attributes = {_NAME: getattr(fn, "__name__", type(fn).__name__), **self._attributes}

        def start(args: tuple[Any, ...], kwargs: dict[str, Any]) -> OperationContext:
            inputs = _inputs(signature, args, kwargs)
            return OperationContext(None, {**attributes, **inputs}, propagate=self._propagate)

        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                with start(args, kwargs) as started:
                    result = await fn(*args, **kwargs)
                    started.set_output(result)
                    return result

            return cast("FunctionT", wrapped)

        @functools.wraps(fn)
        def wrapped_sync(*args: Any, **kwargs: Any) -> Any:
            with start(args, kwargs) as started:
                result = fn(*args, **kwargs)
                started.set_output(result)
                return result

        return cast("FunctionT", wrapped_sync)


@overload
def operation(fn: FunctionT, /) -> FunctionT: ...
@overload
def operation(
    fn: None = None, /, *, propagate: bool = True, name: str | None = None, **attributes: Any
) -> OperationContext: ...
def operation(
    fn: FunctionT | None = None,
    /,
    *,
    propagate: bool = True,
    name: str | None = None,
    **attributes: Any,
) -> FunctionT | OperationContext:
    """Record a function's calls, or a block of code, as operation spans.

    Use it as `@operation`, `@operation(name=…)` or `with operation(name=…) as op:`. A decorated
    function's arguments and result are recorded; exceptions are recorded and raised again.

    Args:
        fn: The function, when used bare.
        propagate: Whether spans go to the active tracer; if not, nothing is stored.
        name: Name of the operation; a decorated function's own name unless given.
        **attributes: More attributes, flattened.

    Raises:
        ConfigurationError: The name is given twice.
    """
    context = OperationContext(name, attributes, propagate=propagate)
    return context if fn is None else context(fn)


def span(name: str, **attributes: Any) -> OperationContext:
    """Record a block of code as one operation, in a `with` statement.

    The `id` of what the statement binds may be given to `emit_reward(span_id=…)`.
    """
    return OperationContext(name, attributes)


def _inputs(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Attributes:
    """Return the input attributes of a call, by parameter name where the call fits."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        # The call itself will raise; what was passed is recorded as it came.
        return {**_expanded("args", args), **_storable(f"{_INPUT}.kwargs", kwargs)}
    bound.apply_defaults()
    recorded: Attributes = {}
    for name, value in bound.arguments.items():
        if name in {"self", "cls"}:
            continue
        variadic = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        recorded.update(
            _expanded(name, value) if variadic else _storable(f"{_INPUT}.{name}", value)
        )
    return recorded


def _expanded(name: str, values: tuple[Any, ...]) -> Attributes:
    recorded: Attributes = {}
    for index, value in enumerate(values):
        recorded.update(_storable(f"{_INPUT}.{name}.{index}", value))
    return recorded


def _storable(prefix: str, value: Any) -> Attributes:
    """Return any value as attributes under `prefix`: flattened if nested, else JSON or text."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict | list):
        try:
            return sanitize_attributes(flatten_attributes({prefix: value}))
        except (ConfigurationError, RecursionError):
            # Keys that are not strings, or a value that holds itself: it is kept as one text.
            return sanitize_attributes({prefix: value})
    return sanitize_attributes({prefix: value})
