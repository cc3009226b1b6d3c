"""A library's instrumentation is switched on once for all its users, if it is there."""

import pytest
from openai import OpenAI
from openinference.instrumentation.openai import OpenAIInstrumentor

from agentlightning.errors import ConfigurationError, MissingExtraError
from agentlightning.instrumentation.client_library import ClientLibrary
from agentlightning.tracer.provider import shared_provider

OURS = ("openinference-instrumentation-openai", "openinference.instrumentation.openai")


def test_users_are_counted():
    """The last user switches it off; one call too many is harmless."""
    library = ClientLibrary("openai", (*OURS, "OpenAIInstrumentor"))
    before = OpenAI.request
    library.instrument(shared_provider())
    library.instrument(shared_provider())
    assert OpenAI.request is not before
    library.uninstrument()
    assert OpenAI.request is not before
    library.uninstrument()
    library.uninstrument()
    assert OpenAI.request is before


def test_what_the_program_switched_on_stays_on():
    """An instrumentation of somebody else's is left alone."""
    library = ClientLibrary("openai", (*OURS, "OpenAIInstrumentor"))
    OpenAIInstrumentor().instrument(tracer_provider=shared_provider())
    try:
        library.instrument(shared_provider())
        library.uninstrument()
        assert OpenAIInstrumentor().is_instrumented_by_opentelemetry
    finally:
        OpenAIInstrumentor().uninstrument()


def test_what_is_missing_is_named():
    """The library, or the extra that brings its instrumentation."""
    with pytest.raises(ConfigurationError, match="no_such_library is not installed"):
        ClientLibrary("no_such_library", ("a", "b", "C")).instrument()
    missing = ClientLibrary("openai", ("some-instrumentation", "no_such.module", "C"))
    assert missing.is_installed
    assert not missing.can_be_instrumented
    with pytest.raises(MissingExtraError, match=r"some-instrumentation.*\[instrumentation\]"):
        missing.instrument()
