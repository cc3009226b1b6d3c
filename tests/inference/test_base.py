"""What a training run asks of whatever samples."""

import inspect

import pytest

from agentlightning.inference.base import InferenceBackend
from agentlightning.inference.embedded import EmbeddedInference
from agentlightning.inference.vllm import VLLMInference


@pytest.mark.parametrize("kind", [EmbeddedInference, VLLMInference])
def test_every_backend_has_all_of_it(kind):
    """Each member of the protocol is there, awaitable where the protocol says so, with its
    parameters.
    """
    members = {name: it for name, it in vars(InferenceBackend).items() if name[0] != "_"}
    assert "publish" in members
    for name, wanted in members.items():
        found = getattr(kind, name)
        if inspect.isfunction(wanted):
            assert inspect.iscoroutinefunction(found) == inspect.iscoroutinefunction(wanted)
            assert inspect.signature(found).parameters.keys() == (
                inspect.signature(wanted).parameters.keys()
            )
