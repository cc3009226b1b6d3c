"""Inference backends by name."""

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.inference.connect import EmbeddedOptions, connect_inference
from agentlightning.inference.embedded import EmbeddedInference
from agentlightning.inference.embedded_copy import EmbeddedCopy
from agentlightning.inference.vllm import VLLMInference


def connected(tiny, spec, **options):
    return connect_inference(
        spec, model=tiny.model, tokenizer=tiny.tokenizer, name="tiny", **options
    )


def test_the_embedded_engine_has_a_name(tiny):
    """`embedded` is the engine of this process, with the run's seed."""
    inference = connected(tiny, "embedded", embedded=EmbeddedOptions(seed=7))
    assert isinstance(inference, EmbeddedInference)
    assert inference.engine.config.seed == 7
    assert inference.shares_weights
    copying = connected(tiny, "embedded", embedded=EmbeddedOptions(overlap=True))
    assert isinstance(copying, EmbeddedCopy)
    assert not copying.shares_weights


@pytest.mark.parametrize(
    ("spec", "url"),
    [
        ("vllm://host:8000", "http://host:8000/v1"),
        ("vllm+https://host", "https://host/v1"),
        ("vllm://host:8000/v1", "http://host:8000/v1"),
    ],
)
def test_a_vllm_server_is_named_by_its_address(tiny, spec, url):
    """The address becomes the URL of its OpenAI interface."""
    inference = connected(tiny, spec)
    assert isinstance(inference, VLLMInference)
    assert inference.upstream.name == f"vllm:{url}"


@pytest.mark.parametrize("spec", ["vllm", "vllm://", "http://host:8000", "", "sglang://host"])
def test_what_nobody_knows_is_refused(tiny, spec):
    """The error says what there is."""
    with pytest.raises(ConfigurationError, match="vllm://host:port"):
        connected(tiny, spec)


async def test_the_servers_key_comes_from_the_environment(tiny, server, monkeypatch, tmp_path):
    """A key stands in no configuration; the directory for weights does."""
    monkeypatch.setenv("VLLM_API_KEY", "s3cret")
    address = server.url.replace("http", "vllm")
    inference = connected(tiny, address, weights_dir=str(tmp_path / "weights"))
    await inference.start()
    assert {headers["authorization"] for headers in server.headers} == {"Bearer s3cret"}
    assert len(list((tmp_path / "weights").iterdir())) == 1
    await inference.stop()
    assert list((tmp_path / "weights").iterdir()) == []
