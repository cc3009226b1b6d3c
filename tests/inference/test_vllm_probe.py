"""What a server is found to be."""

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.inference.vllm_probe import check_tokenizer, probe_server
from agentlightning.inference.vllm_server import VLLMServer
from tests.support.tiny_model import make_tiny_tokenizer


@pytest.fixture
async def client(server):
    client = VLLMServer(server.url)
    yield client
    await client.aclose()


@pytest.mark.parametrize("mode", ["processed_logprobs", "raw_logprobs"])
async def test_temperature_shows_what_the_numbers_mean(client, server, mode):
    """Log-probabilities that a colder request does not change leave temperature out."""
    server.mode = mode
    facts = await probe_server(client, [5])
    assert (facts.model, facts.context) == ("base", 512)
    assert facts.processed_logprobs == (mode == "processed_logprobs")


async def test_logits_are_refused(client, server):
    """Numbers above 0 are no log-probabilities."""
    server.mode = "processed_logits"
    with pytest.raises(ConfigurationError, match="tells logits"):
        await probe_server(client, [5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tells_ids": False}, "does not tell token ids"),
        ({"context": None}, "max_model_len"),
        ({"refusals": [(400, "Requested sample logprobs of 5")]}, "--max-logprobs 5"),
    ],
)
async def test_a_server_that_cannot_serve_training_is_refused(client, server, change, message):
    """The error says what is missing."""
    for name, value in change.items():
        setattr(server, name, value)
    with pytest.raises(ConfigurationError, match=message):
        await probe_server(client, [5])


async def test_tokenizers_are_compared(client, server, tiny):
    """Another tokenizer at the server would make every id mean something else."""
    await check_tokenizer(client, "base", tiny.tokenizer)
    server.tokenizer = make_tiny_tokenizer(["fox"])
    with pytest.raises(ConfigurationError, match="another tokenizer"):
        await check_tokenizer(client, "base", tiny.tokenizer)
