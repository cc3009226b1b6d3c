"""Operations record calls and blocks of code."""

import asyncio
import inspect

import pytest
from pydantic import BaseModel

from agentlightning.emitter import operation, span
from agentlightning.errors import TracerError
from agentlightning.tracer.otel import OtelTracer

IN = "agentlightning.operation.input."
OUT = "agentlightning.operation.output"
NAME = "agentlightning.operation.name"


@operation
def at_import(x: int = 1) -> int:
    return x * 2


class Answer(BaseModel):
    id: str
    tokens: list[int]


@pytest.fixture
def spans():
    """A trace that stays open during the test; calling it gives the spans so far."""
    tracer = OtelTracer()
    with tracer.lifespan(), tracer._trace_context_sync():
        yield tracer.get_last_trace


def test_decorated_where_no_trace_is_open(spans):
    """A function decorated at import is traced when it is called inside a trace."""
    assert at_import() == 2
    (only,) = spans()
    assert only.name == "agentlightning.operation"
    assert only.attributes == {NAME: "at_import", IN + "x": 1, OUT: 2}


def test_called_where_no_trace_is_open():
    """Outside of a trace the call is an error that says what to do, unless not propagated."""
    with pytest.raises(TracerError, match="No active tracer"):
        at_import()
    assert operation(propagate=False)(lambda: 3)() == 3


def test_inputs_are_named_by_parameter(spans):
    """Arguments are recorded by name, nested values flattened, `self` left out."""

    class Tool:
        @operation(name="lookup", kind="tool")
        def run(self, a, *rest, deep=None, **more):
            return Answer(id="x", tokens=[1, 2])

    Tool().run(1, "b", 3, deep={"k": [{"v": 1}]}, extra=True)
    (only,) = spans()
    assert only.attributes == {
        NAME: "lookup",
        "kind": "tool",
        IN + "a": 1,
        IN + "rest.0": "b",
        IN + "rest.1": 3,
        IN + "deep.k.0.v": 1,
        IN + "more.extra": True,
        OUT + ".id": "x",
        OUT + ".tokens": [1, 2],
    }


def test_a_call_that_does_not_fit(spans):
    """The arguments of a wrong call are recorded as they came, and the error is raised."""
    with pytest.raises(TypeError):
        at_import(1, 2, z=3)
    (only,) = spans()
    assert only.attributes[IN + "args.0"] == 1
    assert only.attributes[IN + "args.1"] == 2
    assert only.attributes[IN + "kwargs.z"] == 3
    assert only.status.status_code == "ERROR"


async def test_coroutines(spans):
    """Coroutine functions stay coroutine functions, and are recorded around their awaits."""

    @operation
    async def work(x):
        await asyncio.sleep(0)
        return [x]

    assert inspect.iscoroutinefunction(work)
    assert await work(1) == [1]
    (only,) = spans()
    assert only.attributes == {NAME: "work", IN + "x": 1, OUT: [1]}


@pytest.mark.parametrize("odd", [object(), {1: {2: 3}}, {"a": object()}, None, (1, "x"), [[]]])
def test_values_that_cannot_be_flattened_do_not_break_the_call(spans, odd):
    """Whatever is passed, the function runs and something of it is recorded."""
    assert operation(lambda x: x)(odd) is odd
    (only,) = spans()
    assert all(isinstance(v, str | int | float | list) for v in only.attributes.values())


def test_a_value_that_holds_itself(spans):
    """A circular value is recorded as text."""
    circular: list[object] = []
    circular.append(circular)
    operation(lambda x: None)(circular)
    assert spans()[0].attributes[IN + "x"] == "[[...]]"


def test_block(spans):
    """A block records inputs and outputs; its span can be read after it, and not before."""
    with operation(conversation="7") as op:
        op.set_input(1, {"a": 2}, named="x")
        op.set_output({"b": 3})
        with pytest.raises(TracerError, match="not ended"):
            op.span()
    expected = {
        "conversation": "7",
        IN + "args.0": 1,
        IN + "args.1.a": 2,
        IN + "named": "x",
        OUT + ".b": 3,
    }
    assert op.span().attributes == expected
    (only,) = spans()
    assert only.attributes == expected
    assert only.span_id == op.id


async def test_async_blocks(spans):
    """Blocks of tasks at once are recorded apart, each around what ran inside it."""

    async def work(name):
        async with span(name) as outer:
            await asyncio.sleep(0)
            async with span("inner"):
                await asyncio.sleep(0)
        return outer.id

    first, second = await asyncio.gather(work("a"), work("b"))
    parents = {s.parent_id for s in spans() if s.attributes[NAME] == "inner"}
    assert parents == {first, second}
    with pytest.raises(LookupError):
        async with span("broken"):
            raise LookupError("x")
    assert spans()[-1].status.status_code == "ERROR"


def test_wrong_use_of_a_block(spans):
    """Recording or reading before the block, and entering twice at once, are errors."""
    op = operation()
    with pytest.raises(TracerError, match="not started"):
        op.set_input(1)
    with pytest.raises(TracerError, match="enter it first"):
        _ = op.id
    with op, pytest.raises(TracerError, match="under way"):
        op.__enter__()
    with op:
        pass
    assert len(spans()) == 2


def test_names(spans):
    """The name can be given once only; a block has none unless given."""
    with pytest.raises(ValueError, match="not as both"):
        operation(name="x", **{NAME: "y"})
    with operation() as op:
        pass
    assert NAME not in op.span().attributes
    with span("step", n=1) as step:
        pass
    assert step.span().attributes == {NAME: "step", "n": 1}


def test_exceptions_are_raised_again(spans):
    """A failing function's error comes through, and its span says so."""

    @operation
    def fails():
        raise KeyError("k")

    with pytest.raises(KeyError):
        fails()
    assert spans()[0].status.status_code == "ERROR"


def test_recursion_and_concurrency(spans):
    """One decorated function may be under way many times at once."""

    @operation
    def count(n):
        return 0 if n == 0 else 1 + count(n - 1)

    assert count(5) == 5
    recorded = spans()
    assert [s.attributes[OUT] for s in recorded] == [0, 1, 2, 3, 4, 5]
    assert [s.parent_id for s in recorded[:-1]] == [s.span_id for s in recorded[1:]]
