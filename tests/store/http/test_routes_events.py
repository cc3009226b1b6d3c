"""Tests of the event stream, by raw HTTP and through the client."""

import asyncio
import json

import httpx
import pytest

from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.types import AttemptedRollout
from tests.store.http.conftest import make_span


def read_events(url: str, count: int, **kwargs: object) -> list[dict[str, str]]:
    """Return the first events of a stream, each as its fields."""
    events: list[dict[str, str]] = []
    fields: dict[str, str] = {}
    with httpx.stream("GET", url, timeout=10, **kwargs) as response:  # type: ignore[arg-type]
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if line and not line.startswith(":"):
                fields[name] = value
            elif fields:
                if "data" in fields:
                    events.append(fields)
                fields = {}
            if len(events) == count:
                break
    return events


async def test_replay_from_the_beginning_and_from_an_event(server: LightningStoreServer):
    """A stream replays what came after `since`, and `Last-Event-ID` takes its place."""
    rollouts = [await server.start_rollout(i, metadata={"team": "replay"}) for i in range(3)]
    url = server.endpoint + "/v1/agl/events"
    query = {
        "since": "0",
        "kinds": ["rollout_created", "spans_added"],
        "metadata": json.dumps({"team": "replay"}),
    }
    events = await asyncio.to_thread(read_events, url, 3, params=query)
    decoded = [json.loads(event["data"]) for event in events]
    assert [event["rollout_id"] for event in decoded] == [r.rollout_id for r in rollouts]
    assert [event["event"] for event in events] == ["rollout_created"] * 3
    assert [int(event["id"]) for event in events] == [event["seq"] for event in decoded]
    after = {"last-event-id": events[1]["id"]}
    rest = await asyncio.to_thread(read_events, url, 1, params=query, headers=after)
    assert rest == events[2:]


async def test_live_events(client: LightningStoreClient, server: LightningStoreServer):
    """A subscription without a beginning yields what happens next."""
    before, claim = await client.start_rollout("before"), await client.start_rollout("live")
    await client.add_many_spans([make_span(before)])
    events = client.subscribe(kinds=["spans_added"])
    coming = asyncio.create_task(anext(events))
    async with asyncio.timeout(20):
        # Until the subscription has begun.
        while not coming.done():
            await client.add_many_spans([make_span(claim)])
            await asyncio.wait({coming}, timeout=0.2)
    event = await coming
    assert (event.kind, event.rollout_id) == ("spans_added", claim.rollout_id)
    await events.aclose()


async def test_subscriptions_by_metadata(client: LightningStoreClient):
    """Only events of rollouts with the wanted metadata come."""
    await client.start_rollout(1, metadata={"group": "a"})
    wanted = await client.start_rollout(2, metadata={"group": "b", "x": 1})
    events = client.subscribe(since=0, metadata={"group": "b"})
    event = await asyncio.wait_for(anext(events), 5)
    assert event.rollout_id == wanted.rollout_id
    await events.aclose()


@pytest.mark.parametrize(
    ("query", "status"),
    [({"since": "-1"}, 422), ({"since": "x"}, 422), ({"kinds": "nothing"}, 422),
     ({"metadata": "{"}, 422), ({"metadata": "[]"}, 400)],
)  # fmt: skip
def test_wrong_subscriptions(http: httpx.Client, query: dict[str, str], status: int):
    """A stream that cannot be is refused before it begins."""
    answer = http.get("/events", params=query)
    assert answer.status_code == status
    assert set(answer.json()) == {"detail", "code", "request_id"}


@pytest.mark.parametrize("last_id", ["x", "-1", "1.5", "9" * 30, "²"])
def test_wrong_last_event_ids(http: httpx.Client, last_id: str):
    """A Last-Event-ID that no event has is refused."""
    answer = http.get("/events", headers={"last-event-id": last_id.encode()})
    assert answer.status_code == 400


async def test_silence_is_filled(
    server: LightningStoreServer, claim: AttemptedRollout, monkeypatch: pytest.MonkeyPatch
):
    """A quiet stream sends comments, so that both ends notice a dead connection."""
    monkeypatch.setattr("agentlightning.store.http.routes_events.KEEP_ALIVE_SECONDS", 0.05)

    def read_lines() -> list[str]:
        lines: list[str] = []
        with httpx.stream("GET", server.endpoint + "/v1/agl/events", timeout=5) as response:
            for line in response.iter_lines():
                lines.append(line)
                if line == ": keep-alive":
                    break
        return lines

    lines = await asyncio.to_thread(read_lines)
    newest = await server.last_event_seq()
    assert lines == [": ready", f"id: {newest}", "", ": keep-alive"]
