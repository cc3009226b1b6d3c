"""Answers of a server of another format, as scripted bytes: whole, or as the events of a stream."""

import json
from typing import Any

from tests.support.model_server import ModelServer


def pieces(text: str) -> list[str]:
    """Return a text in pieces of three characters."""
    return [text[at : at + 3] for at in range(0, len(text), 3)]


def stream_of(told: list[dict[str, Any]]) -> bytes:
    """Return events as bytes, with spaces that a gateway would not write."""
    lines = [f"event: {it['type']}\ndata:  {json.dumps(it)} \n\n" for it in told]
    return "".join(lines).encode()


def serve(
    server: ModelServer, path: str, whole: dict[str, Any], told: list[dict[str, Any]] | None = None
) -> bytes:
    """Let a server answer with events, or else with a whole; return the bytes."""
    body = json.dumps(whole, indent=1).encode() if told is None else stream_of(told)
    kind = "application/json" if told is None else "text/event-stream"
    server.raw[path] = (200, kind, body)
    return body
