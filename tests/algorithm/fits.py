"""Fits in one run directory, with a real engine, gateway, runner and train backend."""

from pathlib import Path
from typing import Any

from agentlightning.algorithm.grpo import GRPO, GRPOConfig
from agentlightning.algorithm.policy.gradient import PolicyGradient
from agentlightning.algorithm.policy.loop import PolicyLoop
from agentlightning.algorithm.policy.policy import Policy
from agentlightning.algorithm.policy.result import FitResult
from agentlightning.algorithm.policy.run_dir import RunDirectory
from agentlightning.store.base import LightningStore
from agentlightning.trainer import Trainer
from agentlightning.types import Rollout
from tests.algorithm.working import Scribe, Watcher, working

TASKS = ["a", "b", "c"]
HELD_OUT = ["x", "y"]


def one_large_step(model: Path, run_dir: Path, **settings: Any) -> FitResult:
    """Return the result of a fit of one step that changes the weights a lot."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    algorithm = GRPO(
        model=str(model), run_dir=str(run_dir), group_size=3, batch_groups=2, steps=1,
        max_tokens=2, learning_rate=0.01, progress=[], **settings,
    )  # fmt: skip
    try:
        result = Trainer(algorithm=algorithm, concurrency=4).fit(Scribe(), ["a", "b"])
    finally:
        torch.set_num_threads(threads)
    assert isinstance(result, FitResult)
    return result


class Fits:
    """Starts fits in one run directory and one store."""

    def __init__(self, model: Path, path: Path, store: LightningStore) -> None:
        self.model, self.path, self.store = model, path, store
        self.agent: Any = Scribe()
        self.watcher = Watcher()
        self.policy: Policy
        """Of the latest loop."""
        self.config: GRPOConfig

    def loop(self, **settings: Any) -> PolicyLoop:
        """Return the loop of a new part of the run, as after a restart of the program."""
        fields: dict[str, Any] = {
            "model_alias": "tiny",
            "group_size": 3,
            "batch_groups": 2,
            "max_tokens": 2,
        }
        config = GRPOConfig(
            **{"model": str(self.model), "run_dir": str(self.path), "lora_rank": None}
            | fields
            | settings
        )
        self.config = config
        run = RunDirectory.open(config, algorithm="GRPO", resume=None)
        self.watcher = Watcher()
        self.policy = Policy(config, self.store)
        learner = PolicyGradient(config, self.policy)
        return PolicyLoop("GRPO", config, run, self.store, self.policy, learner, self.watcher)

    async def fit(
        self,
        tasks: Any = TASKS,
        held_out: Any = None,
        *,
        concurrency: int = 16,
        **settings: Any,
    ) -> FitResult:
        """Run one part of the run to its end, beside a runner."""
        loop = self.loop(**settings)
        async with working(self.store, self.agent, concurrency=concurrency):
            return await loop.run(tasks, held_out)

    async def rollouts(self, mode: str = "train") -> list[Rollout]:
        return [each for each in await self.store.query_rollouts() if each.mode == mode]
