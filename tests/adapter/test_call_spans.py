"""Several spans of one call count once."""

from typing import Any

from agentlightning.adapter.call_spans import one_per_call
from agentlightning.adapter.llm_span import response_id
from agentlightning.types.tracer import Span
from tests.support.spans import make_call, make_llm_span, make_span


def nameless(span_id: str, **given: Any) -> Span:
    return make_llm_span(span_id, **{"gen_ai__response__id": None, **given})


def mute(span_id: str, answer: str, **given: Any) -> Span:
    """Return what a client says of itself: an id, a model, and no messages."""
    told = {"gen_ai__operation__name": "chat", "gen_ai__request__model": "m"}
    return make_span(span_id, gen_ai__response__id=answer, **{**told, **given})


def kept(*found: tuple[Span, str]) -> list[tuple[str, str]]:
    return [(span.span_id, label) for span, label in one_per_call(found)]


def test_the_gateways_span_is_kept_under_the_clients_label():
    """It knows what was sampled; the client knows which agent it was."""
    record = make_call("1").to_span()
    client = make_llm_span("client", gen_ai__response__id="resp-1")
    assert kept((client, "solver"), (record, "*")) == [(record.span_id, "solver")]
    assert kept((client, "*"), (record, "*")) == [(record.span_id, "*")]


def test_the_one_that_tells_most_is_kept_else_the_first():
    """Token ids count most, then answers, then prompts."""
    whole = make_llm_span("whole", gen_ai__response__id="r")
    without_ids = make_llm_span("plain", gen_ai__response__id="r", prompt_token_ids=None)
    assert kept((mute("mute", "r"), "*"), (without_ids, "*"), (whole, "a")) == [("whole", "a")]
    assert kept((without_ids, "*"), (mute("mute", "r"), "*")) == [("plain", "*")]
    again = make_llm_span("again", gen_ai__response__id="r")
    assert kept((whole, "*"), (again, "*")) == [("whole", "*")]


def test_a_span_without_an_id_is_matched_and_gets_it():
    """Model and time tell which call it is of, and usage where both say it."""
    streamed = nameless("streamed", start=0.0, end=1.0)
    native = mute("native", "r", start=0.1, end=0.9)
    ((span, _),) = one_per_call([(streamed, "*"), (native, "*")])
    assert (span.span_id, response_id(span)) == ("streamed", "r")
    assert response_id(streamed) is None
    for other in (
        mute("other", "r", start=2.0, end=3.0),
        mute("other", "r", start=0.1, end=0.9, gen_ai__request__model="another"),
        mute("other", "r", start=0.1, end=None),
    ):
        assert len(kept((streamed, "*"), (other, "*"))) == 2
    told = nameless("told", start=0.0, end=1.0, gen_ai__usage__output_tokens=5)
    unequal = mute("other", "r", start=0.1, end=0.9, gen_ai__usage__output_tokens=6)
    assert len(kept((told, "*"), (unequal, "*"))) == 2


def test_calls_at_the_same_time_are_matched_one_to_one():
    """Each of several alike goes to the nearest that is left, and none is lost."""
    found = [(nameless(f"s{i}", start=i / 10, end=5.0 + i), "*") for i in range(3)]
    found += [(mute(f"m{i}", f"r{i}", start=i / 10 + 0.01, end=5.0 + i), "*") for i in range(3)]
    found.append((nameless("alone", start=0.5, end=5.0), "*"))
    made = one_per_call(found)
    assert [(span.span_id, response_id(span)) for span, _ in made] == [
        ("s0", "r0"),
        ("s1", "r1"),
        ("s2", "r2"),
        ("alone", None),
    ]
