"""Captured calls and the spans that store them."""

from hypothesis import given
from hypothesis import strategies as st

from agentlightning.types import CallChoice, CallRecord, Span, VersionSpan

CHOICES = st.builds(
    CallChoice,
    index=st.integers(0, 8),
    message=st.none() | st.dictionaries(st.text(), st.text()),
    token_ids=st.lists(st.integers(0, 200_000)),
    logprobs=st.lists(st.floats(-100, 0)),
    versions=st.lists(
        st.builds(VersionSpan, start=st.just(0), length=st.just(1), version=st.just(2))
    ),
    finish_reason=st.sampled_from([None, "stop", "length"]),
)
RECORDS = st.builds(
    CallRecord,
    call_id=st.just("ca-0123456789abcdef"),
    rollout_id=st.just("ro-1"),
    attempt_id=st.just("at-1"),
    prompt_token_ids=st.lists(st.integers(0, 200_000)),
    choices=st.lists(CHOICES, max_size=3),
    start_time=st.just(1.0),
    end_time=st.just(2.0),
    outcome=st.sampled_from(["ok", "error", "cancelled"]),
    error=st.none() | st.text(),
    role=st.none() | st.text(min_size=1),
    request=st.dictionaries(st.text(), st.integers()),
)  # fmt: skip


@given(RECORDS)
def test_record_comes_back_from_its_span(record: CallRecord):
    """Nothing of a call is lost on the way through the store and its JSON."""
    span = Span.model_validate_json(record.to_span().model_dump_json())
    assert CallRecord.from_span(span) == record


def test_span_belongs_to_the_attempt_and_the_call():
    """A repeated write of one call is one span, in the trace of its attempt."""
    record = CallRecord(
        call_id="ca-0123456789abcdef", rollout_id="r", attempt_id="a", start_time=1.0, end_time=2.0
    )
    first, second = record.to_span(), record.to_span()
    assert first.span_id == second.span_id == "0123456789abcdef"
    assert first.trace_id == second.trace_id
    assert first.name == "openai.chat.completion"
    assert record.model_copy(update={"trace_id": "f" * 32}).to_span().trace_id == "f" * 32


def test_failed_call_is_an_error_span():
    """The status of the span tells how the call ended, and why."""
    record = CallRecord(
        call_id="ca-1", rollout_id="r", attempt_id="a", start_time=1.0, end_time=2.0,
        outcome="error", error="upstream broke",
    )  # fmt: skip
    span = record.to_span()
    assert span.status.status_code == "ERROR"
    assert span.status.description == "upstream broke"


def test_other_spans_store_no_call():
    """A span without a record gives None."""
    assert CallRecord.from_span(Span.from_attributes(attributes={"k": "v"})) is None


def test_choices_may_answer_prompts_of_their_own():
    """A call with several prompts is one record for each of them, and each token counts once."""
    record = CallRecord(
        call_id="ca-1", rollout_id="r", attempt_id="a", start_time=1.0, end_time=2.0,
        prompt_token_ids=[1, 2],
        choices=[
            CallChoice(index=0, token_ids=[5], logprobs=[-1.0]),
            CallChoice(index=1, token_ids=[6], logprobs=[-1.0]),
            CallChoice(index=2, token_ids=[7], logprobs=[-1.0], prompt_token_ids=[3]),
        ],
    )  # fmt: skip
    first, second = record.by_prompt()
    assert (first.prompt_token_ids, second.prompt_token_ids) == ([1, 2], [3])
    assert [[c.index for c in part.choices] for part in (first, second)] == [[0, 1], [2]]
    assert {part.call_id for part in (first, second)} == {"ca-1"}
    assert record.missing == []
    span = record.to_span()
    assert span.attributes["gen_ai.usage.input_tokens"] == 3
    assert CallRecord.from_span(span) == record
    record.choices[2].prompt_token_ids = []
    assert record.missing == ["prompt_token_ids"]
    plain = record.model_copy(update={"choices": record.choices[:2]})
    assert plain.by_prompt() == [plain]
