"""Calls through LiteLLM, made by an interpreter that has it."""

import json
import subprocess
from pathlib import Path

import pytest

from agentlightning.errors import MissingExtraError
from agentlightning.gateway.litellm_upstream import LiteLLMUpstream
from agentlightning.settings import agent_environment

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venvs/litellm/bin/python"


def test_litellm_serves_calls_streams_tools_and_errors() -> None:
    """A provider behind LiteLLM answers as any server does, and its calls are recorded."""
    assert PYTHON.exists(), f"{PYTHON} is missing: run `make frameworks`"
    environment = {
        **agent_environment(),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [PYTHON, "-m", "tests.gateway.litellm_calls"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["whole"] == seen["streamed"] == "hello"
    assert seen["chunks"] > 1
    assert seen["tool"] == '{"a": 1}'
    assert (seen["status"], seen["retry_after"]) == (429, "7")
    assert seen["asked"] == 4, "LiteLLM tried again by itself"
    assert (seen["model"], seen["key"]) == ("real-m", "Bearer key")
    assert seen["records"] == [
        ["ok", None, False],
        ["ok", None, True],
        ["ok", None, False],
        ["error", "rate_limited", False],
    ]


def test_without_litellm_the_error_names_the_extra() -> None:
    """Whoever lacks it is told what to install, when the model list is read."""
    with pytest.raises(MissingExtraError, match=r"agentlightning\[litellm\]"):
        LiteLLMUpstream("bedrock/x")
