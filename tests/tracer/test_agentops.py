"""AgentOps' sessions are trace contexts: each with its spans, any number at once."""

import asyncio
import pickle

import agentops
import pytest

from agentlightning._internal import extra
from agentlightning.emitter import emit_reward
from agentlightning.errors import ConfigurationError
from agentlightning.instrumentation.wrappers import strip_wrappers
from agentlightning.tracer.agentops import AgentOpsTracer


@pytest.fixture
def agentops_tracer():
    """A started tracer without a store."""
    made = AgentOpsTracer()
    with made.lifespan():
        yield made


async def test_many_rollouts_at_once(agentops_tracer, store, begin):
    """Spans of AgentOps' decorators and of emitters are below their own rollout's session."""
    agentops_tracer.init_worker(0, store)

    @agentops.operation
    async def work(number: int) -> int:
        await asyncio.sleep(0.001 * (number % 5))
        return number

    async def agent(number: int):
        ids = await begin(store)
        async with agentops_tracer.trace_context(f"run-{number}", **ids):
            await work(number)
            emit_reward(float(number))
        return await store.query_spans(**ids)

    for number, spans in enumerate(await asyncio.gather(*map(agent, range(50)))):
        by_name = {span.name: span for span in spans}
        session = by_name[f"run-{number}.session"]
        assert set(by_name) == {session.name, "work.task", "agentlightning.annotation"}
        assert session.parent_id is None
        assert session.status.status_code == "OK"
        assert by_name["work.task"].parent_id == session.span_id
        assert by_name["work.task"].attributes["agentops.task.output"] == str(number)
        assert by_name["agentlightning.annotation"].attributes["agentlightning.reward.0.value"] == (
            float(number)
        )
        assert len({span.trace_id for span in spans}) == 1


async def test_a_session_ends_as_its_context_does(agentops_tracer, store, begin):
    """An exception makes it an error; without a name it is called after the rollout."""
    agentops_tracer.init_worker(0, store)
    ids = await begin(store)
    with pytest.raises(ValueError, match="wrong"):
        async with agentops_tracer.trace_context(**ids):
            raise ValueError("wrong")
    (session,) = await store.query_spans(**ids)
    assert session.name == f"{ids['rollout_id']}.session"
    assert session.status.status_code == "ERROR"
    assert session.attributes["agentops.session.end_state"] == "ERROR"


def test_contexts_without_a_loop(agentops_tracer):
    """Code without an event loop has sessions as well."""
    with agentops_tracer._trace_context_sync("plain"):
        emit_reward(1.0)
    names = [span.name for span in agentops_tracer.get_last_trace()]
    assert names == ["agentlightning.annotation", "plain.session"]


async def test_a_program_that_manages_agentops_itself(store, begin):
    """Then no session is opened here, and the program's own are recorded."""
    tracer = AgentOpsTracer(agentops_managed=False)
    with tracer.lifespan(store):
        agentops.init(auto_start_session=False, log_session_replay_url=False)
        ids = await begin(store)
        async with tracer.trace_context(**ids):
            with agentops.start_trace("mine"):
                emit_reward(1.0)
    assert {s.name for s in await store.query_spans(**ids)} == {
        "mine.session",
        "agentlightning.annotation",
    }
    # The program's instrumentation is its own to end, so this test does.
    agentops.instrumentation.uninstrument_all()
    for library in ("openai", "anthropic"):
        strip_wrappers(library, "agentops")


def test_it_travels_to_other_processes():
    """Pickling keeps the settings."""
    tracer = AgentOpsTracer(agentops_managed=False, instrument_managed=False, daemon=False)
    copy = pickle.loads(pickle.dumps(tracer))
    assert (copy.agentops_managed, copy.instrument_managed, copy.daemon) == (False, False, False)


def test_without_agentops_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    """Where it is not installed, the tracer says which extra brings it."""
    monkeypatch.setattr(extra.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"agentlightning\[agentops\]"):
        AgentOpsTracer()
