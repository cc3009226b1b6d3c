"""What servers say went wrong, in one vocabulary."""

import json

import openai
import pytest

from agentlightning.errors import RequestError, StoreUnavailableError, UpstreamError
from agentlightning.gateway.failure import CallFailure, code_of_answer
from tests.gateway.running import HELLO, running
from tests.support.model_server import ModelServer

OVERFLOWS = {
    "openai": (
        400,
        {
            "error": {
                "message": "This model's maximum context length is 8192 tokens. However, your "
                "messages resulted in 9000 tokens.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        },
    ),
    "openai responses": (
        400,
        {
            "error": {
                "message": "Your input exceeds the context window of this model.",
                "type": "invalid_request_error",
                "code": "context_length_exceeded",
            }
        },
    ),
    "vllm": (
        400,
        {
            "error": {
                "message": "This model's maximum context length is 2048 tokens. However, you "
                "requested 2100 tokens (2000 in the messages, 100 in the completion).",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            }
        },
    ),
    "vllm, older": (
        400,
        {
            "object": "error",
            "message": "The decoder prompt (length 5000) is longer than the maximum model length "
            "of 4096.",
            "type": "BadRequestError",
            "code": 400,
        },
    ),
    "sglang": (
        400,
        {
            "object": "error",
            "message": "The input (5000 tokens) is longer than the model's context length "
            "(4096 tokens).",
            "type": "BadRequestError",
            "code": 400,
        },
    ),
    "llama.cpp": (
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size (4096 tokens), try "
                "increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 5000,
                "n_ctx": 4096,
            }
        },
    ),
    "tgi": (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. "
            "Given: 5000 `inputs` tokens and 100 `max_new_tokens`",
            "error_type": "validation",
        },
    ),
    "anthropic": (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "prompt is too long: 205000 tokens > 200000 maximum",
            },
        },
    ),
}


@pytest.mark.parametrize("server_kind", OVERFLOWS)
def test_each_servers_overflow_is_known(server_kind: str) -> None:
    """A prompt that does not fit is one class of failure, whoever says so."""
    status, body = OVERFLOWS[server_kind]
    assert code_of_answer(status, json.dumps(body).encode()) == "context_length_exceeded"


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (429, b'{"error": {"message": "Rate limit reached", "code": "rate"}}', "rate_limited"),
        (500, b"Internal Server Error", "upstream_error"),
        (503, b"", "upstream_error"),
        (504, b"upstream request timeout", "timeout"),
        (400, b'{"error": {"message": "temperature must be positive"}}', "invalid_request_error"),
        (400, b'{"error": {"message": "the context of this tool is not valid"}}', None),
        (500, b'{"error": {"message": "maximum context length reached"}}', "upstream_error"),
    ],
)
def test_other_failures_are_told_apart_by_status(
    status: int, body: bytes, code: str | None
) -> None:
    """What is not about length goes by its status."""
    assert code_of_answer(status, body) == (code or "invalid_request_error")


def test_our_own_errors_have_a_status_and_a_code() -> None:
    """A silent server is a 504 and `timeout`, a broken one a 502, a store that is down a 503."""
    silent = UpstreamError("x")
    silent.__cause__ = TimeoutError()
    told = [CallFailure.from_error(e) for e in (silent, UpstreamError("x"))]
    assert [(failure.status, failure.code) for failure in told] == [
        (504, "timeout"),
        (502, "upstream_error"),
    ]
    away = CallFailure.from_error(StoreUnavailableError("x"))
    assert (away.status, away.headers["retry-after"]) == (503, "1")
    assert CallFailure.from_error(RequestError("x", status=404)).status == 404


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("server_kind", ["openai", "vllm", "sglang", "llama.cpp", "tgi"])
async def test_clients_get_the_same_overflow_from_every_server(
    server: ModelServer, server_kind: str, stream: bool
) -> None:
    """Agents can test for OpenAI's status and code; the server's own words are kept."""
    status, body = OVERFLOWS[server_kind]
    server.raw["/v1/chat/completions"] = (status, "application/json", json.dumps(body).encode())
    async with running(server) as run, run.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="m", messages=HELLO, stream=stream)
        record = await run.record()
    assert caught.value.code == "context_length_exceeded"
    assert "context" in caught.value.message or "max_new_tokens" in caught.value.message
    assert (record.outcome, record.error_code) == ("error", "context_length_exceeded")
    assert record.http_status == status
