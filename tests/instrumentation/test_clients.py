"""All client libraries that can be are instrumented at once."""

from anthropic import Anthropic
from openai import OpenAI

from agentlightning.instrumentation.clients import (
    instrument_clients,
    require_instrumentation,
    uninstrument_clients,
)
from agentlightning.tracer.provider import shared_provider


def test_what_is_installed_is_instrumented():
    """OpenAI's and Anthropic's clients are, LangChain is not here; undoing is complete."""
    require_instrumentation()
    before = (OpenAI.request, Anthropic.messages)
    assert instrument_clients(shared_provider()) == ["openai", "anthropic"]
    assert OpenAI.request is not before[0]
    uninstrument_clients()
    assert (OpenAI.request, Anthropic.messages) == before
