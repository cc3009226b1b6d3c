"""vLLM is only checked for being recent enough."""

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.instrumentation import vllm


def test_old_versions_are_refused(monkeypatch: pytest.MonkeyPatch):
    """Versions before 0.10.2 send no token ids; later ones need nothing."""
    monkeypatch.setattr(vllm, "require_library", lambda _: None)
    for found, is_fine in {
        "0.9.1": False,
        "0.10.1.1": False,
        "0.10.2": True,
        "0.10.2rc1+cu128": True,
        "0.11": True,
        "1.0.0.dev3": True,
    }.items():
        monkeypatch.setattr(vllm, "version", lambda _, found=found: found)
        if is_fine:
            vllm.instrument_vllm()
        else:
            with pytest.raises(ConfigurationError, match=found):
                vllm.instrument_vllm()
    vllm.uninstrument_vllm()


def test_without_vllm_the_error_says_so():
    """Where vLLM is not installed, as here, instrumenting it is refused."""
    with pytest.raises(ConfigurationError, match="vllm is not installed"):
        vllm.instrument_vllm()
