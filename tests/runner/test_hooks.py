"""Hooks around real rollouts: order, arguments, and what their errors do."""

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from agentlightning.litagent import LitAgent
from agentlightning.runner import hooks as hooks_module
from agentlightning.types import Hook
from tests.runner.test_agent import Returning, enqueue, finished

MARK: ContextVar[str] = ContextVar("mark", default="unset")


class Recording(Hook):
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.arguments: dict[str, set[str]] = {}
        self.spans: list[Any] = []

    async def on_rollout_start(self, **kwargs):
        self._note("on_rollout_start", kwargs)

    async def on_trace_start(self, **kwargs):
        self._note("on_trace_start", kwargs)

    async def on_trace_end(self, **kwargs):
        self._note("on_trace_end", kwargs)

    async def on_rollout_end(self, **kwargs):
        self._note("on_rollout_end", kwargs)
        self.spans = list(kwargs["spans"])

    def _note(self, name, kwargs):
        self.calls.append(name)
        self.arguments[name] = set(kwargs)


@pytest.mark.parametrize("task", [1.0, ValueError("no")])
async def test_all_hooks_run_in_order(store, working, task):
    """The four hooks run in order with all their arguments, also when the agent raises."""
    hook = Recording()
    ids = await enqueue(store, [task])
    async with working(Returning(), hooks=[hook]):
        await finished(store, ids)
    assert hook.calls == ["on_rollout_start", "on_trace_start", "on_trace_end", "on_rollout_end"]
    base = {"agent", "runner", "rollout"}
    assert hook.arguments == {
        "on_rollout_start": base,
        "on_trace_start": base | {"tracer"},
        "on_trace_end": base | {"tracer"},
        "on_rollout_end": base | {"spans"},
    }


async def test_the_last_hook_sees_the_spans(store, working):
    """`on_rollout_end` gets the trace, with the span of the returned reward."""
    hook = Recording()
    ids = await enqueue(store, [0.25])
    async with working(Returning(), hooks=[hook]):
        await finished(store, ids)
    values = [span.attributes.get("agentlightning.reward.0.value") for span in hook.spans]
    assert values == [0.25]


async def test_hooks_may_declare_fewer_parameters(store, working):
    """A hook gets exactly the parameters it declares, and may be a plain function."""
    seen = []

    class Few(Hook):
        async def on_rollout_start(self, rollout):
            seen.append(rollout.rollout_id)

        def on_rollout_end(self, *, spans):
            seen.append(len(spans))

    ids = await enqueue(store, [1.0])
    async with working(Returning(), hooks=[Few()]):
        (item,) = await finished(store, ids)
    assert seen == [ids[0], 1]
    assert "hook_errors" not in item.attempt.metadata


async def test_hook_errors_are_recorded_and_harmless(store, working):
    """A raising hook leaves a record on the attempt; the other hooks and the rollout go on."""

    class Broken(Hook):
        async def on_trace_start(self, *, agent):
            raise KeyError("oops")

    after = Recording()
    ids = await enqueue(store, [1.0])
    async with working(Returning(), hooks=[Broken(), after]):
        (item,) = await finished(store, ids)
    assert item.status == "succeeded"
    assert item.attempt.metadata["hook_errors"] == [
        {"hook": "Broken", "method": "on_trace_start", "type": "KeyError", "message": "'oops'"}
    ]
    assert "on_trace_start" in after.calls


async def test_hanging_hooks_are_cut_off(store, working, monkeypatch):
    """A hook that never returns is given up and recorded."""

    class Hanging(Hook):
        async def on_rollout_start(self):
            await asyncio.sleep(60)

    monkeypatch.setattr(hooks_module, "HOOK_SECONDS", 0.05)
    ids = await enqueue(store, [1.0])
    async with working(Returning(), hooks=[Hanging()]):
        (item,) = await finished(store, ids)
    assert item.status == "succeeded"
    assert item.attempt.metadata["hook_errors"][0]["type"] == "TimeoutError"


async def test_context_variables_of_hooks_reach_the_agent(store, working):
    """What `on_trace_start` sets in the context is there in the agent, per rollout."""

    class Marking(Hook):
        async def on_trace_start(self, *, rollout):
            MARK.set(rollout.input)

    class Reading(LitAgent[Any]):
        def rollout(self, task, resources, rollout):
            return float(MARK.get() == task)

    ids = await enqueue(store, ["a", "b", "c"])
    async with working(Reading(), hooks=[Marking()], concurrency=3):
        await finished(store, ids)
    for rollout_id in ids:
        (span,) = await store.query_spans(rollout_id)
        assert span.attributes["agentlightning.reward.0.value"] == 1.0
