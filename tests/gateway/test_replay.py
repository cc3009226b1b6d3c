"""Repeats of a call: one record for each call that was made, whatever the client repeats."""

import asyncio

import openai
import pytest

from agentlightning.errors import RequestError
from agentlightning.gateway.replay import ReplayCache
from tests.gateway.running import HELLO, Running, running
from tests.support.model_server import Answer, ModelServer

KEY = ("ro", "at"), "key"


def test_answers_are_found_by_key() -> None:
    """What was put is found, under its own key only."""
    cache = ReplayCache()
    cache.put(KEY, b"asked", 200, {"a": "b"}, b"told")
    kept = cache.find(KEY, b"asked")
    assert kept is not None
    assert (kept.status, kept.headers, kept.body) == (200, {"a": "b"}, b"told")
    assert cache.find((("ro", "other"), "key"), b"asked") is None
    assert cache.find((("ro", "at"), "other"), b"asked") is None


def test_a_key_is_for_one_request() -> None:
    """The same key with another body is a mistake of the client."""
    cache = ReplayCache()
    cache.put(KEY, b"asked", 200, {}, b"told")
    with pytest.raises(RequestError, match="another request"):
        cache.find(KEY, b"something else")


def test_the_oldest_answers_are_given_up() -> None:
    """The cache is bounded; what is larger than it is not kept at all."""
    cache = ReplayCache(most_bytes=10)
    keys = [(("ro", "at"), str(number)) for number in range(3)]
    for key in keys:
        cache.put(key, b"", 200, {}, b"12345")
    assert [cache.find(key, b"") is not None for key in keys] == [False, True, True]
    cache.put(KEY, b"", 200, {}, b"12345678901")
    assert cache.find(KEY, b"") is None


async def ask(run: Running, key: str | None, *, stream: bool = False, **options: object) -> str:
    headers = {"Idempotency-Key": key} if key else {}
    async with run.client(**options) as client:
        if not stream:
            answer = await client.chat.completions.create(
                model="m", messages=HELLO, extra_headers=headers
            )
            return answer.choices[0].message.content or ""
        chunks = await client.chat.completions.create(
            model="m", messages=HELLO, stream=True, extra_headers=headers
        )
        return "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_repeat_under_the_same_key_gets_the_answer_that_was_made(
    server: ModelServer, stream: bool
) -> None:
    """The server is asked once, and there is one record, which names the key."""
    texts = iter(["first", "second", "third"])
    server.script = lambda _: Answer(text=next(texts))
    async with running(server) as run:
        told = [await ask(run, "one", stream=stream) for _ in range(2)]
        other = await ask(run, "two", stream=stream)
        records = await run.records()
        replayed = run.gateway.stats.replayed
    assert told == ["first", "first"]
    assert other == "second"
    assert [record.idempotency_key for record in records] == ["one", "two"]
    assert replayed == 1


async def test_a_failed_call_is_made_again_under_its_key(server: ModelServer) -> None:
    """Only successes are kept; each try has its record, and says which one it is."""
    script = [Answer(status=500), Answer(status=429), Answer(text="at last")]
    server.script = lambda _: script.pop(0)
    async with running(server) as run:
        assert await ask(run, "one", max_retries=2) == "at last"
        records = await run.records()
    assert [(r.outcome, r.error_code, r.retry, r.idempotency_key) for r in records] == [
        ("error", "upstream_error", 0, "one"),
        ("error", "rate_limited", 1, "one"),
        ("ok", None, 2, "one"),
    ]


async def test_a_client_that_gave_up_waiting_leaves_its_call_as_cancelled(
    server: ModelServer,
) -> None:
    """The try that timed out is recorded as cancelled, the one that was answered as ok."""
    script = [Answer(delay_seconds=30.0), Answer(text="quick")]
    server.script = lambda _: script.pop(0)
    async with running(server, timeout=60.0) as run:
        assert await ask(run, None, max_retries=1, timeout=2.0) == "quick"
        async with asyncio.timeout(30):
            while len(records := await run.records()) < 2:
                await asyncio.sleep(0.02)
    told = sorted((r.retry, r.outcome, r.error_code) for r in records)
    assert told == [(0, "cancelled", "client_gone"), (1, "ok", None)]


async def test_a_key_for_another_request_is_refused(server: ModelServer) -> None:
    """The client learns of its mistake instead of getting an answer to something else."""
    async with running(server) as run:
        await ask(run, "one")
        with pytest.raises(openai.ConflictError, match="another request"):
            await ask(run, "one", stream=True)
        assert len(await run.records()) == 1
