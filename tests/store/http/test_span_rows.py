"""Tests of pages of spans as rows: the same spans as in the usual form, in fewer bytes."""

import math
from collections.abc import Awaitable, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.store.base import LightningStore
from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.store.collections.packed import PackedSpan
from agentlightning.store.http.client_page import read_page
from agentlightning.store.http.span_rows import SHAPES_FIELD, AnsweredRows, encode_rows
from agentlightning.store.http.wire import decode, page_body
from agentlightning.store.http.wire_span import AnsweredSpans, encode_spans
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.sqlite import SQLiteLightningStore
from agentlightning.store.threading import LightningStoreThreaded
from agentlightning.types import AttemptedRollout, OtelResource, Span
from tests.store.http.conftest import make_span, ok
from tests.store.http.test_wire import spans


def _read(raw: dict[str, Any]) -> list[Span]:
    return list(read_page(raw, -1, AnsweredRows(raw)))


@given(st.lists(spans, max_size=4), st.booleans())
def test_rows_are_read_as_they_were_sent(sent: list[Span], packed: bool):
    """Spans of every kind, packed by the store or not, come back equal."""
    shared: dict[Any, Any] = {}
    items = [PackedSpan(span, shared) for span in sent] if packed else sent
    raw = decode(encode_rows(page_body(items, -1, 0)))
    assert _read(raw) == sent
    assert raw["total"] == len(sent)


@pytest.mark.parametrize(
    "odd",
    [
        {"attributes": {"nan": math.nan, "list": [1.0, -math.inf]}},
        {"attributes": {"text": "null", "lone": "\ud800"}},
        {"attributes": {"large": 2**80}},
        {"attributes": {"k": 1}, "name": "\ud800"},
        {"attributes": {"k": 1}, "start_time": math.nan},
    ],
)
def test_odd_spans_are_as_in_the_usual_form(odd: dict[str, Any]):
    """What JSON cannot hold becomes the same in rows as in the usual form of spans."""
    one = Span.from_attributes(attributes={"a": 1})
    two = one.model_copy(update=odd)
    usual = [*map(AnsweredSpans(), decode(encode_spans([one, two])))]
    rows = _read(decode(encode_rows(page_body([PackedSpan(one, {}), two], -1, 0))))
    # By text, because NaN is not equal to itself.
    assert repr(rows) == repr(usual)


def test_what_spans_share_is_written_once():
    """Keys of attributes and resources are in the body once, and read as one resource."""
    resource = OtelResource(attributes={"service.name": "searcher"}, schema_url="")
    sent = [Span.from_attributes(attributes={"key": i}, resource=resource) for i in range(3)]
    body = encode_rows(page_body(sent, -1, 0))
    assert (body.count(b'"key"'), body.count(b"searcher")) == (1, 1)
    read = _read(decode(body))
    assert read == sent
    assert read[0].resource is read[2].resource
    assert read[0].attributes is not read[2].attributes


async def test_rows_only_on_demand(http: httpx.Client, claim: AttemptedRollout):
    """The route answers in rows only when asked to, with the same numbers beside them."""
    for number in range(3):
        ok(http.post("/spans", json=make_span(claim, sequence_id=number + 1).model_dump()), 201)
    query = {"rollout_id": claim.rollout_id, "limit": 2, "offset": 1, "sort_order": "desc"}
    usual = ok(http.post("/spans/search", json=query))
    rows = ok(http.post("/spans/search?rows=true", json=query))
    assert SHAPES_FIELD not in usual
    assert (rows["limit"], rows["offset"], rows["total"]) == (2, 1, 3)
    assert _read(rows) == [*map(AnsweredSpans(), usual["items"])]
    assert http.post("/spans/search?rows=perhaps", json=query).status_code == 422


async def test_stores_that_do_not_pack_answer_in_rows_too(tmp_path):
    """A client reads the same spans from a server on SQLite as were stored, changed or not."""
    store = SQLiteLightningStore(f"{tmp_path}/store.db")
    server = LightningStoreServer(store, port=0)
    await server.start()
    client = LightningStoreClient(server.endpoint)
    try:
        claim = await client.start_rollout({})
        stored = await client.add_many_spans([make_span(claim), make_span(claim)])
        assert list(await client.query_spans(claim.rollout_id)) == list(stored)
        found = await client.query_spans(claim.rollout_id, limit=0)
        assert (list(found), found.total) == ([], 2)
    finally:
        await client.close()
        await server.stop()
        await store.close()


async def _edited(query: Awaitable[Sequence[Span]]) -> Sequence[Span]:
    found = await query
    for span in found:
        assert isinstance(span, Span)
        span.attributes["seen"] = True
    return found


class Editing(InMemoryLightningStore):
    """A user's store that edits what it hands out, with no thought of how spans are kept."""

    async def query_spans(self, *args: Any, **kwargs: Any) -> Sequence[Span]:
        return await _edited(super().query_spans(*args, **kwargs))


class Forwarding(LightningStore):
    """A user's store in front of another."""

    def __init__(self, inner: LightningStore) -> None:
        self.inner = inner

    async def query_spans(self, *args: Any, **kwargs: Any) -> Sequence[Span]:
        return await _edited(self.inner.query_spans(*args, **kwargs))


@pytest.mark.parametrize("kind", ["subclass", "wrapped", "forwarding", "replaced"])
async def test_answers_of_users_stores_are_served(kind: str):
    """What a store of a user makes of an answer arrives, wherever the answer came from."""
    inner = Editing() if kind in {"subclass", "wrapped"} else InMemoryLightningStore()
    store: LightningStore = inner
    if kind == "wrapped":
        store = LightningStoreThreaded(inner)
    elif kind == "forwarding":
        store = Forwarding(inner)
    elif kind == "replaced":
        own = inner.query_spans
        vars(inner)["query_spans"] = lambda *args, **kwargs: _edited(own(*args, **kwargs))
    claim = await inner.start_rollout({})
    await inner.add_span(make_span(claim))
    server = LightningStoreServer(store, port=0)
    await server.start()
    client = LightningStoreClient(server.endpoint)
    try:
        (span,) = await client.query_spans(claim.rollout_id)
        assert span.attributes["seen"] is True
    finally:
        await client.close()
        await server.stop()
        await inner.close()


async def test_servers_that_know_no_rows_are_read(
    client: LightningStoreClient, claim: AttemptedRollout
):
    """A page in the usual form, as servers of other versions send it, is read as well."""
    stored = await client.add_many_spans([make_span(claim)])
    request = client._transport.request

    async def without_query(method: str, path: str, *args: Any, **kwargs: Any) -> Any:
        return await request(method, path.split("?")[0], *args, **kwargs)

    client._transport.request = without_query
    assert list(await client.query_spans(claim.rollout_id)) == list(stored)
