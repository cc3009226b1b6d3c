"""Training an example agent outside: the model here, the agent in an environment of its own."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import agentlightning as agl
from agentlightning.execution.client_server import ClientServerExecutionStrategy
from tests.agents.outside import Runner, tasks
from tests.support.ports import free_port
from tests.support.tiny_model import EOS, make_tiny_model, make_tiny_tokenizer

STEPS, GROUP = 3, 8
"""Where about half of the rollouts earn something, a step in a hundred has no two that differ, and
teaches nothing; no fit has so many in a row."""
TASK = tasks(1)[0]
ANSWER = str(TASK["answer"])
END_SHARE = 0.4
_PULL = 0.2


def tool_call(name: str, **arguments: Any) -> str:
    """Return a tool call as models write it."""
    call = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{call}\n</tool_call>"


def forced_call(name: str, **arguments: Any) -> str:
    """Return what models write of a tool call that the engine has begun, as it must be one."""
    return tool_call(name, **arguments).removeprefix('<tool_call>\n{"name": "')


MULTIPLY = tool_call("multiply", a=11, b=90)


def lines_of(request: dict[str, Any]) -> list[str]:
    """Return the long lines of a request's prompt: as single tokens they make it short."""
    template = make_tiny_tokenizer().apply_chat_template
    prompt = template(request["messages"], tools=request.get("tools"), tokenize=False)
    return sorted({line for line in re.split(r"\n|\\\\n", prompt) if len(line) > 20})


def make_babbler(
    path: Path, phrases: Mapping[str, float], context: int, words: Sequence[str] = ()
) -> Path:
    """Write a model that says these phrases, each a single token, with about these probabilities.

    Its answers end early, and now and then it says something else. It takes no notice of what it
    is asked, before it is trained. `words` are single tokens, too.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_tiny_model(path, hidden=32, layers=1, context=context, words=[*phrases, *words])
    model = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    shares = {**phrases, EOS: END_SHARE}
    rest = (1 - sum(shares.values())) / len(tokenizer)
    with torch.no_grad():
        # All hidden states share a direction, along which the head prefers some tokens.
        head = model.get_input_embeddings().weight.clone()
        model.get_input_embeddings().weight += _PULL
        width = head.shape[1]
        for text, share in shares.items():
            head[tokenizer.convert_tokens_to_ids(text)] += math.log(share / rest) / width
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(head)
    model.save_pretrained(path)
    return path


def train_outside(
    python: Path,
    agent: str,
    home: Path,
    phrases: Mapping[str, float],
    *,
    steps: int = STEPS,
    group: int = GROUP,
    context: int = 4096,
    words: Sequence[str] = (),
    path: Path | None = None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Train a model for a few steps on what the agent itself earns; return the metrics of each.

    Args:
        python: Interpreter that the agent and its runner run under.
        agent: Module below `examples.agents`, with the agent's name where it is not `agent`.
        home: An empty directory.
        phrases: What the model says before it is trained; see `make_babbler`.
        steps: Training steps.
        group: Rollouts of a step, all at the same time.
        context: Of the model, in tokens, which are bytes but for the phrases.
        words: Further texts that are single tokens.
        path: Where else programs are.
        **settings: Further fields of `GRPOConfig`.
    """
    torch.set_num_threads(1)
    (home / "agent").mkdir()
    port = free_port()
    concurrency = ("--concurrency", str(group))
    with Runner(
        python, agent, home / "agent", port, steps * group, *concurrency, path=path
    ) as runner:
        fields: dict[str, Any] = {
            "model": str(make_babbler(home / "model", phrases, context, words)),
            "model_alias": "tiny",
            "group_size": group,
            "batch_groups": 1,
            "steps": steps,
            "learning_rate": 5e-3,
            "lora_rank": None,
            "max_tokens": 64,
            "micro_batch_tokens": 2 * context,
            "run_dir": str(home / "run"),
        }
        trainer = agl.Trainer(
            algorithm=agl.GRPO(progress=[], **(fields | settings)),
            strategy=ClientServerExecutionStrategy(role="algorithm", server_port=port),
        )
        runner.wait_until_ready()
        result = trainer.fit(lambda task, llm: 0.0, [TASK])
        runner.wait()
    return [line for line in result.metrics() if "training/reward" in line]


def check_steps(metrics: list[dict[str, Any]], *, calls: int = 1, group: int = GROUP) -> None:
    """Check that all rollouts were learnt from, and that weights moved.

    Args:
        metrics: Of each step.
        calls: Fewest calls that a rollout makes.
        group: Rollouts of a step.
    """
    for step in metrics:
        assert step["training/n_rollouts"] == group, step
        assert step["training/n_rollouts_w_trace"] == group, step
        assert step["training/n_calls"] >= calls * group, step
        assert step["training/samples_without_logprobs"] == 0, step
        is_mixed = step["training/reward_std"] > 0
        assert bool(step.get("training/n_trained_tokens")) == is_mixed, step
    trained = [step for step in metrics if step.get("training/n_trained_tokens")]
    assert trained, metrics
    assert all(step["training/grad_norm"] > 0 for step in trained)
