"""A whole answer told as a stream says the same as the whole answer."""

from __future__ import annotations

import json
from typing import Any

from agentlightning.gateway.dialects.whole_stream import events_of_whole
from agentlightning.gateway.servers import capabilities_of
from tests.gateway.running import HELLO, running
from tests.support.model_server import Answer, ModelServer


def test_ends_with_the_usage_only_where_it_was_asked_for() -> None:
    """Each choice is one chunk, the head goes with the first, and [DONE] ends the stream."""
    answer: dict[str, Any] = {
        "id": "c-1",
        "object": "chat.completion",
        "model": "m",
        "prompt_token_ids": [1, 2],
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"},
            {"index": 1, "message": {"role": "assistant", "content": "b"}, "finish_reason": "stop"},
        ],
        "usage": {"total_tokens": 3},
    }
    body = json.dumps(answer).encode()
    events = events_of_whole(body, kind="chat.completion.chunk", with_usage=True)
    assert events[-1].data == b"[DONE]"
    first, second, usage = [json.loads(event.data or b"") for event in events[:-1]]
    assert first["prompt_token_ids"] == [1, 2]
    assert "prompt_token_ids" not in second
    assert [chunk["choices"][0]["delta"]["content"] for chunk in (first, second)] == ["a", "b"]
    assert usage["usage"] == {"total_tokens": 3}
    assert len(events_of_whole(body, kind="chat.completion.chunk", with_usage=False)) == 3


async def test_streams_of_a_server_without_ids_in_streams_have_ids() -> None:
    """A trained model's stream is asked for whole, reaches the client as a stream, with ids."""
    answer = Answer(text="two words", tools=[("search", '{"q": 1}')])
    with ModelServer(answer) as server:
        async with running(server, capabilities=capabilities_of("sglang")) as run:
            async with run.client() as client:
                stream = await client.chat.completions.create(
                    model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
                )
                chunks = [chunk async for chunk in stream]
            record = await run.record()
        (sent,) = server.calls
        assert sent.request["stream"] is False
        assert "stream_options" not in sent.request
        assert chunks[0].choices[0].delta.content == "two words"
        (call,) = chunks[0].choices[0].delta.tool_calls or []
        assert call.function is not None
        assert (call.index, call.function.arguments) == (0, '{"q": 1}')
        assert chunks[-1].usage is not None
        assert all("token_ids" not in (chunk.choices[0].model_extra or {}) for chunk in chunks[:-1])
        assert record.stream
        assert record.choices[0].token_ids == sent.token_ids[0]
        assert record.prompt_token_ids == sent.prompt_token_ids
        assert record.missing == []
