"""`agl serve`: a real server process, asked with the official client and stopped with Ctrl-C."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from openai import AuthenticationError, BadRequestError, NotFoundError, OpenAI

from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.policy import Policy
from agentlightning.algorithm.policy.run_dir import RunDirectory
from agentlightning.cli import main
from agentlightning.store.memory import InMemoryLightningStore
from tests.algorithm.fits import one_large_step
from tests.support.tiny_model import make_tiny_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The directory of an untrained model."""
    return make_tiny_model(tmp_path_factory.mktemp("serve") / "tiny", hidden=32)


@pytest.fixture(scope="module")
def run_dir(model) -> Path:
    """A run of one large step, killed after it: there is a checkpoint and no result."""
    one_large_step(model, model.parent / "run", model_alias="trained")
    (model.parent / "run" / "result.json").unlink()
    return model.parent / "run"


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, str, str]]:
    """Run `agl serve` on a free port; yield alias, URL and what else its first line says.

    It is stopped with SIGINT, which is checked.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "agentlightning.cli", "serve", *arguments, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        alias, at, rest = process.stdout.readline().partition(" at ")
        assert at, "it ended before it printed its address"
        url, _, facts = rest.partition(" (")
        yield alias, url, facts.removesuffix(")\n")
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
        assert (process.returncode, rest) == (0, "stopped\n")
    finally:
        process.kill()
        process.communicate()


def ask(url: str, alias: str, key: str = "-") -> list[float]:
    """Return the log-probabilities of a greedy answer."""
    with OpenAI(base_url=url, api_key=key, max_retries=0) as client:
        reply = client.chat.completions.create(
            model=alias,
            messages=[{"role": "user", "content": "a"}],
            max_tokens=4,
            temperature=0,
            logprobs=True,
        )
    tokens = reply.choices[0].logprobs.content
    assert len(tokens) == 4
    return [token.logprob for token in tokens]


async def untrained_answer(model: Path) -> list[float]:
    """Return what the model says that the run started from."""
    policy = Policy(GRPOConfig(model=str(model)), InMemoryLightningStore(thread_safe=True))
    await policy.load(None)
    await policy.open_gateway()
    try:
        return await asyncio.to_thread(ask, policy.endpoint, policy.alias)
    finally:
        await policy.stop()


def test_what_a_run_made_is_served_until_ctrl_c(model, run_dir):
    """A run directory serves its checkpoint, also after a kill, to those who know the token."""
    with serving(str(run_dir), "--token", "s3cret") as (alias, url, facts):
        assert (alias, facts) == ("trained", "context 512; float32 on cpu")
        assert url.startswith("http://127.0.0.1:")
        with pytest.raises(AuthenticationError):
            ask(url, alias)
        trained = ask(url, alias, key="s3cret")
        with OpenAI(base_url=url, api_key="s3cret") as client:
            assert [each.id for each in client.models.list()] == ["trained"]
    untrained = asyncio.run(untrained_answer(model))
    assert max(abs(a - b) for a, b in zip(trained, untrained, strict=True)) > 1e-3


def test_a_run_without_a_checkpoint_is_refused(tmp_path, capsys):
    """Before its first checkpoint a run has nothing to serve."""
    config = GRPOConfig(model="m", run_dir=str(tmp_path / "run"))
    RunDirectory.open(config, algorithm="GRPO", resume=None)
    assert main(["serve", str(tmp_path / "run")]) == 1
    assert "has no checkpoint yet" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused(run_dir, tmp_path, capsys):
    """One checkpoint can be named too; weights that were cut off are not served."""
    shutil.copytree(run_dir, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000001"
    for file in checkpoint.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-8])
    assert main(["serve", str(checkpoint), "--port", "0"]) == 1
    assert "Error" in capsys.readouterr().err


def test_an_unknown_model_and_a_taken_port_are_errors(model, capsys):
    """One line says what is wrong; no traceback."""
    assert main(["serve", "/nowhere/at/all"]) == 1
    assert "/nowhere/at/all" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", str(model), "--port", port]) == 1
    assert port in capsys.readouterr().err


TOOLS = [{"type": "function", "function": {"name": "go", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def adapter(model: Path) -> Path:
    """A LoRA adapter in peft's format, as other programs write it."""
    import peft
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    config = peft.LoraConfig(
        r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_pretrained(model)
    peft.inject_adapter_in_model(config, module)
    path = model.parent / "adapter"
    config.save_pretrained(str(path))
    tensors = get_peft_model_state_dict(module, adapter_name="default")
    named = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    save_file(named, path / "adapter_model.safetensors")
    return path


def test_a_model_and_an_adapter_are_served_with_all_options(model, adapter):
    """Names, limits, streams, tools, token ids and log-probabilities, for the official client."""
    options = ("--model-name", "mine", "--lora", f"hot={adapter}", "--max-context", "200")
    more = ("--max-running", "4", "--kv-cache-gib", "0.1", "--prefix-cache-gib", "0.1")
    kind = ("--history", "template", "--dtype", "bfloat16", "--device", "cpu")
    with (
        serving(str(model), *options, *more, *kind) as (alias, url, facts),
        OpenAI(base_url=url, api_key="-", max_retries=0) as client,
    ):
        assert (alias, facts) == ("mine", "context 200; bfloat16 on cpu; adapters hot")
        assert [each.id for each in client.models.list()] == ["mine", "hot", "mine:hot"]
        cold, hot = ask(url, "mine"), ask(url, "hot")
        assert max(abs(a - b) for a, b in zip(cold, hot, strict=True)) > 1e-3
        asked = {"model": "hot", "messages": [{"role": "user", "content": "a"}], "max_tokens": 5}
        asked |= {"tools": TOOLS, "temperature": 0, "extra_body": {"return_token_ids": True}}
        whole = client.chat.completions.create(**asked)
        chunks = list(client.chat.completions.create(**asked, stream=True))
        streamed = [
            token for chunk in chunks for choice in chunk.choices
            for token in getattr(choice, "token_ids", None) or []
        ]  # fmt: skip
        assert streamed == whole.choices[0].token_ids
        assert chunks[0].prompt_token_ids == whole.prompt_token_ids
        long = [{"role": "user", "content": "a" * 200}]
        with pytest.raises(BadRequestError) as caught:
            client.chat.completions.create(model="mine", messages=long)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(NotFoundError):
            ask(url, "cold")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--lora", "hot"], "NAME=DIRECTORY"),
        (["--lora", "a=x", "--lora", "a=y"], "a name of its own"),
        (["--lora", "default=x"], "'default'"),
        (["--lora", "hot=/nowhere"], "no adapter_config.json"),
        (["--max-context", "100000"], "beyond the 512 tokens"),
        (["--device", "cuda:7"], "cuda:7"),
        (["--dtype", "int3"], "int3"),
        (["--host", "0.0.0.0"], "Give it a secret"),
    ],
)
def test_wrong_options_are_told_in_one_line(model, options, told, capsys):
    """A mistake ends the command with status 1 or 2, and says what to give instead."""
    assert main(["serve", str(model), "--port", "0", *options]) in (1, 2)
    assert told in capsys.readouterr().err
