"""The triplet adapter's settings reach the tree, and spans of either make are taken."""

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentlightning.adapter import TracerTraceToTriplet
from agentlightning.adapter.rewards import find_final_reward
from agentlightning.errors import ConfigurationError
from tests.support.spans import make_call, make_llm_span, make_reward_span, make_span


def test_emitted_then_returned_reward():
    """The reward given last counts, as for the rollout: emitted 1.0, returned 0.25 gives 0.25."""
    spans = [
        make_llm_span("a", start=0, end=1),
        make_reward_span("r1", 1.0, 2),
        make_reward_span("r2", 0.25, 3),
    ]
    (triplet,) = TracerTraceToTriplet()(spans)
    assert triplet.reward == find_final_reward(spans) == 0.25


def test_one_triplet_per_turn_with_its_reward():
    """Three turns, each followed by a reward, make three triplets in order."""
    spans = []
    for turn in range(3):
        spans.append(make_llm_span(f"c{turn}", start=2 * turn, end=2 * turn + 1))
        spans.append(make_reward_span(f"r{turn}", turn / 10, 2 * turn + 1.5))
    triplets = TracerTraceToTriplet().adapt(spans)
    assert [(t.metadata["response_id"], t.reward) for t in triplets] == [
        ("resp-c0", 0.0),
        ("resp-c1", 0.1),
        ("resp-c2", 0.2),
    ]


def test_lost_calls_find_their_agent_only_when_repaired():
    """The hierarchy is mended unless that is turned off."""
    spans = [
        make_span("root", start=0, end=10),
        make_span("agent", "root", start=1, end=9, agent__name="writer"),
        make_llm_span("a", "root", start=2, end=3),
    ]
    assert len(TracerTraceToTriplet(agent_match="writer").adapt(spans)) == 1
    assert not TracerTraceToTriplet(agent_match="writer", repair_hierarchy=False).adapt(spans)


def test_other_call_names_can_be_matched():
    """Calls of other libraries are found by their names."""
    spans = [make_llm_span("a", name="litellm.completion"), make_call("ca-1").to_span()]
    found = TracerTraceToTriplet(llm_call_match="litellm").adapt(spans)
    assert {t.metadata["response_id"] for t in found} == {"resp-a", "resp-ca-1"}


def test_only_judges_make_no_triplets():
    """A trace of untrained calls alone gives none, and no error."""
    assert TracerTraceToTriplet().adapt([make_call("ca-1", trained=False).to_span()]) == []


def test_no_spans_are_refused():
    """An empty trace is an error."""
    with pytest.raises(ConfigurationError):
        TracerTraceToTriplet().adapt([])


def test_opentelemetry_spans_are_taken():
    """Finished OpenTelemetry spans work as ours do, with parents."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("agent", attributes={"agent.name": "writer"}):
        ids = {"prompt_token_ids": [1], "response_token_ids": [2]}
        tracer.start_span("openai.chat.completion", attributes=ids).end()
    (triplet,) = TracerTraceToTriplet(agent_match="writer").adapt(exporter.get_finished_spans())
    assert triplet.prompt["token_ids"] == [1]
    assert triplet.response["token_ids"] == [2]
