"""What `instrument_all` switches on, it switches off again."""

import agentops.sdk.core as core

from agentlightning import instrumentation
from agentlightning.instrumentation import instrument_all, uninstrument_all


def test_installed_libraries_are_instrumented():
    """AgentOps is installed here and gets our set-up; the others are not, which the flags say."""
    assert instrumentation.AGENTOPS_INSTALLED
    assert not instrumentation.LITELLM_INSTALLED
    assert not instrumentation.VLLM_INSTALLED
    before = core.setup_telemetry
    instrument_all()
    instrument_all()
    assert core.setup_telemetry is not before
    uninstrument_all()
    assert core.setup_telemetry is not before
    uninstrument_all()
    uninstrument_all()
    assert core.setup_telemetry is before
