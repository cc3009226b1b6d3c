"""Watching calls in the log."""

import logging

import pytest

from agentlightning.gateway.inspection import MessageInspectionMiddleware
from tests.gateway.running import HELLO, running
from tests.support.model_server import ModelServer


async def test_calls_and_answers_are_logged(
    server: ModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Both bodies are in the log as they passed, and nothing changes for the client."""
    caplog.set_level(logging.INFO, "agentlightning.gateway.inspection")
    async with (
        running(server, middlewares=[MessageInspectionMiddleware]) as run,
        run.client() as client,
    ):
        answer = await client.chat.completions.create(model="m", messages=HELLO)
    assert answer.choices[0].message.content == "hello"
    bodies = [(r.message, getattr(r, "body", "")) for r in caplog.records]
    assert any(kind == "request" and '"content":"hi"' in body for kind, body in bodies)
    assert any(kind == "answer" and "hello" in body for kind, body in bodies)
    assert [r.status for r in caplog.records if hasattr(r, "status")] == [200]
