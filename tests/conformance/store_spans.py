"""Conformance: spans in and out, and their sequence ids."""

import asyncio
import math

import pytest

from agentlightning.errors import NotFoundError
from agentlightning.semconv import LightningSpanAttributes
from agentlightning.store.base import LightningStore
from agentlightning.types import AttemptedRollout, Event, Link, OtelResource, Span, SpanContext

LATE = LightningSpanAttributes.LATE.value


def make_span(owner: AttemptedRollout, name: str = "s", **fields) -> Span:
    attributes = fields.pop("attributes", {"n": 1})
    return Span.from_attributes(
        attributes=attributes,
        rollout_id=owner.rollout_id,
        attempt_id=owner.attempt.attempt_id,
        name=name,
        **fields,
    )


class SpanConformance:
    async def test_first_span_starts_the_work(self, store: LightningStore):
        """A span renews the lease and takes attempt and rollout from preparing to running."""
        started = await store.start_rollout(1)
        stored = await store.add_span(make_span(started))
        assert stored is not None
        assert stored.sequence_id == 1
        rollout = await store.get_rollout_by_id(started.rollout_id)
        assert isinstance(rollout, AttemptedRollout)
        assert rollout.status == rollout.attempt.status == "running"
        assert rollout.attempt.last_heartbeat_time is not None

    async def test_span_comes_back_as_it_went_in(self, store: LightningStore):
        """Every field of a span survives storage, extra ones and odd values included."""
        started = await store.start_rollout(1)
        span = make_span(
            started,
            attributes={
                "text": "a\u20ac\x00\U0001f600",
                "ints": [1, 2**40],
                "floats": [0.1, -1e300],
                "bools": [True, False],
                "strings": ["a", ""],
                "flag": True,
                "zero": 0,
                "half": 0.5,
            },
            parent_id="b" * 16,
            start_time=1.25,
            end_time=2.5,
            resource=OtelResource(attributes={"service": "x"}, schema_url="u"),
        )
        span = span.model_copy(
            update={
                "events": [Event(name="e", attributes={"k": "v"}, timestamp=3.0)],
                "links": [
                    Link(
                        context=SpanContext(
                            trace_id="c" * 32, span_id="d" * 16, is_remote=True, trace_state={}
                        ),
                        attributes=None,
                    )
                ],
            }
        )
        span = Span.model_validate({**span.model_dump(), "sequence_id": 7, "custom": {"x": [1]}})
        await store.add_span(span)
        (stored,) = await store.query_spans(started.rollout_id)
        assert stored.model_dump() == span.model_dump()

    async def test_not_a_number_survives(self, store: LightningStore):
        """A reward of NaN is read back as NaN, not lost."""
        started = await store.start_rollout(1)
        await store.add_span(make_span(started, attributes={"r": math.nan, "i": math.inf}))
        (stored,) = await store.query_spans(started.rollout_id)
        assert math.isnan(stored.attributes["r"])
        assert stored.attributes["i"] == math.inf

    async def test_same_span_twice_is_stored_once(self, store: LightningStore):
        """A repeated span is not stored again and takes no sequence id."""
        started = await store.start_rollout(1)
        span, other = make_span(started), make_span(started)
        assert await store.add_span(span) is not None
        assert await store.add_span(span) is None
        stored = await store.add_many_spans([span, other, other])
        assert [s.span_id for s in stored] == [other.span_id]
        assert stored[0].sequence_id == 2
        assert len(await store.query_spans(started.rollout_id)) == 2

    async def test_sequence_ids_are_shared_by_a_rollout(self, store: LightningStore):
        """Given ids raise the counter, zeros take the next, and attempts share one counter."""
        started = await store.start_rollout(1)
        spans = [make_span(started, sequence_id=number) for number in (0, 10, 0, 3, 0)]
        stored = await store.add_many_spans(spans)
        assert [s.sequence_id for s in stored] == [1, 10, 11, 3, 12]
        again = await store.start_attempt(started.rollout_id)
        ids = (again.rollout_id, again.attempt.attempt_id)
        assert await store.get_next_span_sequence_id(*ids) == 13
        other = ("ro-other", "at-other")
        assert list(await store.get_many_span_sequence_ids([ids, other, ids])) == [14, 1, 15]
        assert list(await store.get_many_span_sequence_ids([])) == []

    async def test_unknown_owner_is_refused(self, store: LightningStore):
        """A span of an unknown rollout or attempt is refused, and then none of the call is kept."""
        started = await store.start_rollout(1)
        stray = make_span(started).model_copy(update={"attempt_id": "at-none"})
        with pytest.raises(NotFoundError):
            await store.add_many_spans([make_span(started), stray])
        with pytest.raises(NotFoundError):
            await store.add_span(stray.model_copy(update={"rollout_id": "ro-none"}))
        assert len(await store.query_spans(started.rollout_id)) == 0

    async def test_span_after_the_end_is_late(self, store: LightningStore):
        """A span of an ended attempt is kept and marked, and changes no status."""
        started = await store.start_rollout(1)
        await store.add_span(make_span(started))
        await store.update_attempt(started.rollout_id, "latest", status="succeeded")
        late = await store.add_span(make_span(started))
        assert late is not None
        assert late.attributes[LATE] is True
        spans = await store.query_spans(started.rollout_id)
        assert [LATE in span.attributes for span in spans] == [False, True]
        rollout = await store.get_rollout_by_id(started.rollout_id)
        assert rollout is not None
        assert rollout.status == "succeeded"

    async def test_span_of_a_fenced_attempt_is_late(self, store: LightningStore):
        """A span of an attempt that was taken away neither starts work nor stops the requeue."""
        queued = await store.enqueue_rollout(1)
        old = await store.dequeue_rollout()
        assert old is not None
        await store.update_rollout(queued.rollout_id, status="requeuing")
        late = await store.add_span(make_span(old))
        assert late is not None
        assert late.attributes[LATE] is True
        new = await store.dequeue_rollout()
        assert new is not None
        late = await store.add_span(make_span(old))
        assert late is not None
        assert late.attributes[LATE] is True
        rollout = await store.get_rollout_by_id(queued.rollout_id)
        assert rollout is not None
        assert rollout.status == "preparing"

    async def test_query_by_attempt(self, store: LightningStore):
        """Spans can be asked for by attempt, by the latest attempt, or all of the rollout."""
        first = await store.start_rollout(1)
        await store.add_span(make_span(first, "one"))
        second = await store.start_attempt(first.rollout_id)
        await store.add_many_spans([make_span(second, "two"), make_span(second, "three")])

        async def names(attempt_id=None):
            return [s.name for s in await store.query_spans(first.rollout_id, attempt_id)]

        assert await names() == ["one", "two", "three"]
        assert await names("latest") == ["two", "three"]
        assert await names(first.attempt.attempt_id) == ["one"]
        assert await names("at-none") == []
        assert list(await store.query_spans("ro-none", "latest")) == []

    async def test_query_filters(self, store: LightningStore):
        """Filters are AND-ed or OR-ed, always within the rollout; no filter means everything."""
        started, other = await store.start_rollout(1), await store.start_rollout(2)
        a = make_span(started, "alpha", trace_id="1" * 32, span_id="a" * 16)
        b = make_span(started, "beta", trace_id="2" * 32, span_id="b" * 16, parent_id="a" * 16)
        await store.add_many_spans([a, b, make_span(other, "alpha")])

        async def names(**filters):
            return [s.name for s in await store.query_spans(started.rollout_id, **filters)]

        assert await names(name="alpha") == ["alpha"]
        assert await names(name_contains="et") == ["beta"]
        assert await names(trace_id="2" * 32) == ["beta"]
        assert await names(trace_id_contains="11") == ["alpha"]
        assert await names(span_id="b" * 16) == ["beta"]
        assert await names(span_id_contains="aa") == ["alpha"]
        assert await names(parent_id="a" * 16) == ["beta"]
        assert await names(parent_id_contains="a") == ["beta"]
        assert await names(name="alpha", parent_id="a" * 16) == []
        assert await names(name="alpha", parent_id="a" * 16, filter_logic="or") == ["alpha", "beta"]
        assert await names(filter_logic="or") == ["alpha", "beta"]
        assert await names(name_contains="%") == []

    async def test_query_order_and_pages(self, store: LightningStore):
        """Spans are sorted by any field, None as the largest time, and paged with a total."""
        started = await store.start_rollout(1)
        times = [3.0, None, 1.0, 2.0]
        await store.add_many_spans(
            [make_span(started, f"s{i}", start_time=time) for i, time in enumerate(times)]
        )

        async def names(**query):
            return [s.name for s in await store.query_spans(started.rollout_id, **query)]

        assert await names() == ["s0", "s1", "s2", "s3"]
        assert await names(sort_by="start_time") == ["s2", "s3", "s0", "s1"]
        assert await names(sort_by="start_time", sort_order="desc") == ["s1", "s0", "s3", "s2"]
        assert await names(sort_order="desc", limit=2) == ["s3", "s2"]
        page = await store.query_spans(started.rollout_id, limit=2, offset=1)
        assert [s.name for s in page] == ["s1", "s2"]
        assert (page.total, page.limit, page.offset) == (4, 2, 1)

    async def test_concurrent_spans_get_distinct_ids(self, store: LightningStore):
        """Writers at the same time never share a sequence id."""
        started = await store.start_rollout(1)
        await asyncio.gather(
            *(store.add_many_spans([make_span(started) for _ in range(5)]) for _ in range(8))
        )
        spans = await store.query_spans(started.rollout_id)
        assert [span.sequence_id for span in spans] == list(range(1, 41))

    async def test_otel_span(self, store: LightningStore):
        """A finished OpenTelemetry span is stored under the given attempt."""
        from opentelemetry.sdk.trace import TracerProvider

        started = await store.start_rollout(1)
        with TracerProvider().get_tracer("t").start_as_current_span("work") as otel:
            otel.set_attribute("k", 1)
        ids = (started.rollout_id, started.attempt.attempt_id)
        stored = await store.add_otel_span(*ids, otel)
        assert stored is not None
        (span,) = await store.query_spans(started.rollout_id)
        assert (span.name, span.attributes["k"], span.sequence_id) == ("work", 1, 1)
