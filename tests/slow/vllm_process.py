"""vLLM's CPU build on SmolLM2, started as the guide says."""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentlightning.engine.catalog import fetch_model
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venvs" / "vllm" / "bin" / "python"
MODEL = "smollm2-135m-instruct"
RANK = 8
READY_SECONDS = 600
"""On a quiet machine it takes one minute."""


@contextmanager
def vllm_server(log: Path) -> Iterator[str]:
    """Run the server for the length of the block, and yield its address as `inference` takes it.

    `AGL_VLLM` names one that runs already, for instance `vllm://127.0.0.1:8000`.
    """
    given = os.environ.get("AGL_VLLM")
    if given:
        yield given
        return
    port = free_port()
    with log.open("wb") as out:
        process = subprocess.Popen(
            _command(port),
            env=_environment(),
            cwd=log.parent,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(process, port, log)
        yield f"vllm://127.0.0.1:{port}"
    finally:
        _end(process)


def _command(port: int) -> list[str]:
    return [
        *("nice", str(PYTHON), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(fetch_model(MODEL)), "--served-model-name", "smollm2"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--logprobs-mode", "processed_logprobs", "--max-model-len", "2048"),
        *("--enable-lora", "--max-loras", "2", "--max-lora-rank", str(RANK)),
        # What follows is for this machine and this test, not for training.
        *("--dtype", "float32", "--enforce-eager", "--max-num-seqs", "32"),
    ]


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # Threads that wait for each other are slowest where the cores are shared.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"vLLM ended: {log.read_text()[-4000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise RuntimeError(f"vLLM is not ready: {log.read_text()[-4000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers, which are its process group."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(30)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return
