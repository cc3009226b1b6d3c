"""Captured calls are found among spans."""

from agentlightning.adapter import LlmProxyTraceToTriplet, TracerTraceToTriplet
from agentlightning.adapter.calls import find_calls, named_calls
from tests.support.spans import make_call, make_llm_span, make_span


def test_calls_come_back_whole_and_by_end_time():
    """Every captured call is returned as it was recorded, in the order of the ends."""
    late, early = make_call("ca-1", end=5.0), make_call("ca-2", end=2.0, outcome="error")
    assert find_calls([late.to_span(), make_span("x"), early.to_span()]) == [early, late]


def test_calls_take_the_names_of_the_agents_around_them():
    """A role that the call came with stays; else the announced parent counts, then the client's."""
    spans = [
        make_span("planner", agent__name="planner"),
        make_span("writer", gen_ai__agent__name="writer"),
        make_llm_span("client", "writer", gen_ai__response__id="resp-ca-2"),
        make_call("ca-1", parent_span_id="planner").to_span(),
        make_call("ca-2").to_span(),
        make_call("ca-3", role="judge", parent_span_id="planner").to_span(),
        make_call("ca-4").to_span(),
    ]
    roles = {call.call_id: call.role for call in find_calls(spans)}
    assert roles == {"ca-1": "planner", "ca-2": "writer", "ca-3": "judge", "ca-4": None}
    told = {call.call_id: call.role for _, call in named_calls(spans, only_told=True)}
    assert told == {"ca-1": None, "ca-2": None, "ca-3": "judge", "ca-4": None}


def test_servers_that_repeat_their_ids():
    """Then the client's time says which call was its own; where that is not clear, nobody's is."""
    given = {"gen_ai__response__id": "same"}
    spans = [
        make_span("a", agent__name="a"),
        make_span("b", agent__name="b"),
        make_llm_span("a1", "a", start=0.0, end=2.0, **given),
        make_llm_span("a2", "a", start=4.0, end=8.0, **given),
        make_llm_span("b1", "b", start=4.0, end=8.0, **given),
        make_call("ca-1", start=0.5, end=1.5, response_id="same").to_span(),
        make_call("ca-2", start=5.0, end=6.0, response_id="same").to_span(),
    ]
    assert [(c.call_id, c.role) for c in find_calls(spans)] == [("ca-1", "a"), ("ca-2", None)]
    triplets = TracerTraceToTriplet(repair_hierarchy=False).adapt(spans)
    assert [t.metadata["agent_name"] for t in triplets] == ["a", "*"]
    numbered = [s.model_copy(update={"sequence_id": n}) for n, s in enumerate(spans[5:])]
    assert len(LlmProxyTraceToTriplet().adapt(numbered)) == 2
    spans[-1] = make_call("ca-2", outcome="error", response_id="same").to_span()
    assert len(TracerTraceToTriplet().adapt(spans)) == 1
