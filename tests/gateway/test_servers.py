"""What is known of model servers, and what a record says of those that tell no ids."""

from __future__ import annotations

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.gateway.dialects.choice import ChoiceCapture
from agentlightning.gateway.servers import SERVERS, capabilities_of
from agentlightning.semconv import CallAttributes
from tests.gateway.running import HELLO, running
from tests.support.model_server import ModelServer


def test_names_the_servers_it_knows_when_asked_for_another() -> None:
    """An unknown server is an error that lists the known ones."""
    assert capabilities_of("vLLM") is SERVERS["vllm"]
    with pytest.raises(ConfigurationError, match="ollama"):
        capabilities_of("bllm")


@pytest.mark.parametrize("server_kind", ["openai", "tgi", "ollama"])
async def test_a_record_says_what_its_server_did_not_tell(server_kind: str) -> None:
    """A call without ids is recorded with its text, and says that ids are missing."""
    with ModelServer() as server:
        async with running(server, capabilities=capabilities_of(server_kind)) as run:
            async with run.client() as client:
                await client.chat.completions.create(model="m", messages=HELLO)
            record = await run.record()
            (span,) = await run.store.query_spans(run.rollout_id)
    assert record.choices[0].message == {"role": "assistant", "content": "hello"}
    missing = ["prompt_token_ids", "token_ids"] + ["logprobs"] * (server_kind == "openai")
    assert record.missing == missing
    assert span.attributes[CallAttributes.MISSING.value] == missing


def test_ids_within_log_probabilities_are_read() -> None:
    """llama.cpp's server names each sampled token's id beside its log-probability."""
    capture = ChoiceCapture(0)
    entries = [{"id": 5, "token": "a", "logprob": -0.5}, {"id": 7, "token": "b", "logprob": -1.0}]
    capture.take_tokens({"logprobs": {"content": entries}}, None)
    assert capture.to_choice().token_ids == [5, 7]
    incomplete = ChoiceCapture(0)
    incomplete.take_tokens({"logprobs": {"content": [entries[0], {"logprob": -1.0}]}}, None)
    assert incomplete.to_choice().token_ids == []
