"""A small real training run in a process that can be killed: tiny model, runners in processes.

Import this module where processes are forked from: loading the libraries takes longer than the run.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import aiohttp
import torch
import transformers.models.llama.modeling_llama  # noqa: F401 - preloaded, as said above

import agentlightning as agl
import agentlightning.algorithm.policy.loop
import agentlightning.algorithm.policy.policy
import agentlightning.runner.agent
import agentlightning.store.sqlite

STEPS, GROUPS, MEMBERS, HELD_OUT = 10, 2, 8, 32
TASKS = [f"task {number}" for number in range(12)]
SIGNS = "signs"
"""File in the run's folder with a line for each rollout's beginning and end: its runner's pid."""
ALL_SIGNS = 2 * (STEPS * GROUPS * MEMBERS + 2 * HELD_OUT)


class Typist(agl.LitAgent[Any]):
    """Earns the share of plain letters in the model's answer; patient with servers that are away."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._signs = folder / SIGNS

    async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> float:
        self._sign()
        llm = resources["main_llm"]
        url = llm.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id)
        body = {"model": llm.model, "messages": [{"role": "user", "content": task}]}
        async with aiohttp.ClientSession() as session:
            text = await self._ask(session, f"{url}/chat/completions", body)
        self._sign()
        return sum(character.isascii() for character in text) / max(1, len(text))

    async def _ask(self, session: aiohttp.ClientSession, url: str, body: Any) -> str:
        for _ in range(100):
            async with session.post(url, json=body) as response:
                if response.status < 500:
                    reply = await response.json()
                    return reply["choices"][0]["message"]["content"] or ""
            await asyncio.sleep(0.1)
        raise TimeoutError("the store was away for too long")

    def _sign(self) -> None:
        with self._signs.open("a") as file:
            file.write(f"{os.getpid()}\n")


def fit(folder: Path, model: Path, store: str | None, settings: dict[str, Any]) -> None:
    """Run, or go on with, the fit whose run directory is `folder/run`; a process's target."""
    torch.set_num_threads(1)
    algorithm = agl.GRPO(
        model=str(model),
        model_alias="tiny",
        run_dir=str(folder / "run"),
        progress=(),
        **{
            "lora_rank": None,
            "steps": STEPS,
            "batch_groups": GROUPS,
            "group_size": MEMBERS,
            "max_tokens": 6,
            "learning_rate": 2e-2,
            "eval_temperature": 1.0,
            "checkpoint_every": 2,
            "rollout_timeout_seconds": 60.0,
            **settings,
        },
    )
    trainer = agl.Trainer(
        algorithm=algorithm,
        strategy={"type": "cs", "start_method": "fork", "graceful_timeout": 1.0},
        n_runners=2,
        store=store,
        runner={"concurrency": 8, "heartbeat_interval": 0.5, "poll_interval": 1.0},
    )
    trainer.fit(Typist(folder), TASKS, val_dataset=[f"new {n}" for n in range(HELD_OUT)])
