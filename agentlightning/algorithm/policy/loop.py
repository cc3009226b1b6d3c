"""The loop of policy optimisation: sample, score, learn, publish; reads top to bottom.

One loop serves every schedule: steps are trained in order, and sampled at most `max_staleness` steps
ahead (`schedule`). What it leaves out: sampling itself (runners and engine), and mathematics
(`learning`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import shutil
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlightning._internal.clock import monotonic
from agentlightning.algorithm.policy.ahead import StepsAhead
from agentlightning.algorithm.policy.collect import Collector, cancel_unfinished
from agentlightning.algorithm.policy.diagnosis import check_batch, signal_warning
from agentlightning.algorithm.policy.evaluation import Evaluator, RecordEvaluator
from agentlightning.algorithm.policy.result import FitResult
from agentlightning.algorithm.policy.schedule import admit
from agentlightning.algorithm.policy.state import LoopState
from agentlightning.algorithm.policy.step_sampler import Progress, StepSample, StepSampler
from agentlightning.errors import ConfigurationError, TrainingError
from agentlightning.learning.checkpoint import CheckpointStore
from agentlightning.progress.base import ProgressSink, RunInfo, Sample, StepReport

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.learner import Learner
    from agentlightning.algorithm.policy.outcome import RolloutOutcome
    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.algorithm.policy.records import RecordSource
    from agentlightning.algorithm.policy.run_config import RunConfig
    from agentlightning.algorithm.policy.run_dir import RunDirectory
    from agentlightning.store.base import LightningStore
    from agentlightning.types import Dataset

__all__ = ["PolicyLoop"]

logger = logging.getLogger(__name__)


class PolicyLoop:
    """One fit of one policy."""

    def __init__(
        self,
        name: str,
        config: RunConfig,
        run: RunDirectory,
        store: LightningStore,
        policy: Policy,
        learner: Learner,
        progress: ProgressSink,
        *,
        records: RecordSource | None = None,
    ) -> None:
        """Wire the parts; `run` does the work.

        With `records` the training data are answers instead of tasks: nothing is sampled for
        training, and the agent, if there is one, only does held-out tasks.
        """
        self._name = name
        self._config = config
        self._run = run
        self._store = store
        self._policy = policy
        self._learner = learner
        self._progress = progress
        self._collector = Collector(store, config, run)
        self._records = records
        evaluator = Evaluator(config, store, policy, self._collector)
        self._evaluator = (
            evaluator
            if records is None
            else RecordEvaluator(records, learner, evaluator if records.has_agent else None)
        )
        self._ahead: StepsAhead | None = None
        self._checkpoints = CheckpointStore(run.checkpoints_path, keep=config.keep)
        self._state = LoopState()
        self._rewards_seen: tuple[float, ...] = ()
        """The least and the greatest, once there are any."""
        self._unmarked: list[str] = []
        """Rollouts that no checkpoint includes yet."""

    async def run(
        self, train_dataset: Dataset[Any] | None, val_dataset: Dataset[Any] | None
    ) -> FitResult:
        """Train to the last step, and return what was achieved.

        A cancellation (Ctrl-C) leaves the last checkpoint (see `checkpoint_every`) and a result
        marked as interrupted behind, and is passed on.
        """
        if train_dataset is None or len(train_dataset) == 0:
            raise ConfigurationError(f"{self._name} needs a train_dataset with at least one task.")
        if val_dataset is not None and len(val_dataset) == 0:
            val_dataset = None
        started = monotonic()
        total = self._config.total_steps(len(train_dataset))
        interrupted = True
        try:
            await self._start(total)
            if val_dataset is not None and self._config.eval_first and self._state.step == 0:
                await self._evaluate(val_dataset)
            self._ahead = StepsAhead(
                self._sampler(train_dataset), total=total, bound=self._config.max_staleness
            )
            while self._state.step < total:
                await self._train_step(self._ahead)
                last = self._state.step == total
                if val_dataset is not None and (last or self._evaluation_is_due()):
                    await self._evaluate(val_dataset)
                if last or self._state.step % self._config.checkpoint_every == 0:
                    await self._save_checkpoint()
            interrupted = False
        finally:
            reason = _reason(sys.exception()) if interrupted else None
            result = self._result(
                seconds=monotonic() - started, interrupted=interrupted, reason=reason
            )
            result.save()
            await self._stop(interrupted=interrupted)
            self._progress.ended(interrupted=interrupted, next_steps=_next_steps(result))
        return result

    def _sampler(
        self, dataset: Dataset[Any]
    ) -> Callable[[int, Progress], Coroutine[Any, Any, StepSample]]:
        if self._records is not None:
            return functools.partial(self._records.sample, dataset)
        return StepSampler(self._config, self._store, self._policy, self._collector, dataset).sample

    async def _stop(self, *, interrupted: bool) -> None:
        try:
            if self._ahead is not None:
                await self._ahead.stop()
            if interrupted:
                # Agents fail when the gateway goes; that must not count when the run is resumed.
                await cancel_unfinished(self._store, run_id=self._run.run_id)
        finally:
            await self._policy.stop()

    async def _start(self, total: int) -> None:
        self._progress.phase("loading")
        latest = self._checkpoints.latest()
        if latest is not None:
            self._state = LoopState.from_dict(dict(latest.meta))
        await self._policy.load(latest.path if latest else None, version=self._state.version)
        self._set_sampling(self._config.temperature)
        await self._policy.open_gateway()
        self._progress.started(
            RunInfo(
                algorithm=self._name,
                model=self._config.alias,
                run_dir=str(self._run.path),
                first_step=self._state.step,
                total_steps=total,
                config=self._config.to_dict(),
            )
        )

    async def _train_step(self, ahead: StepsAhead) -> None:
        started = monotonic()
        self._progress.phase("sampling")
        sample = await ahead.take(
            self._state.step, lambda done, all_: self._progress.phase("sampling", done, all_)
        )
        sampled = monotonic()
        admission = admit(
            sample.outcomes, version=self._policy.version, bound=self._config.max_staleness
        )
        outcomes = admission.outcomes
        if not outcomes:
            raise TrainingError(
                f"Every group of step {self._state.step + 1} was sampled by weights more than "
                f"{self._config.max_staleness} versions older than those to be trained. Allow "
                "more with max_staleness, or begin a new run."
            )
        check_batch(outcomes, max_empty_share=self._config.max_empty_share)
        self._progress.phase("training")
        metrics = await self._learner.learn(outcomes, step=self._state.step)
        metrics |= self._policy.history_metrics() | sample.metrics()
        metrics["training/async/groups_dropped_stale"] = float(len(admission.stale_groups))
        metrics["training/async/steps_under_way"] = float(ahead.under_way)
        self._unmarked += [*(each.rollout_id for each in sample.outcomes), *sample.cut]
        self._state.step += 1
        self._state.version = self._policy.version
        metrics |= self._speed(metrics, sample, started, sampled)
        warning = signal_warning(
            outcomes, step=self._state.step, metrics=metrics, earlier=self._rewards_seen
        )
        rewards = [each.reward for each in outcomes if each.reward is not None]
        self._rewards_seen = _extremes([*self._rewards_seen, *rewards])
        if warning:
            logger.warning("weak training signal", extra={"diagnosis": warning})
            self._progress.warned(warning)
        self._progress.stepped(self._report(outcomes, metrics, warning))

    def _set_sampling(self, temperature: float) -> None:
        # What is trained must be what was sampled, whatever the agent asks for.
        forced = {"temperature": temperature, "top_p": 1.0, "top_k": None}
        self._policy.set_sampling(forced=forced, max_tokens=self._config.max_tokens)

    def _speed(
        self, metrics: dict[str, float], sample: StepSample, started: float, sampled: float
    ) -> dict[str, float]:
        ended = monotonic()
        return {
            "training/global_step": float(self._state.step),
            "training/version": float(self._state.version),
            "timing/sample_s": sample.seconds,
            "timing/sample_wait_s": sampled - started,
            "timing/train_s": ended - sampled,
            "timing/step_s": ended - started,
            "speed/rollouts_per_second": metrics["training/n_rollouts"] / (ended - started),
            "speed/tokens_per_second": metrics["training/n_sampled_tokens"]
            / max(sample.seconds, 1e-9),
        }

    def _report(
        self, outcomes: Sequence[RolloutOutcome], metrics: dict[str, float], warning: str | None
    ) -> StepReport:
        scored = [outcome for outcome in outcomes if outcome.reward is not None]
        ranked = sorted(scored, key=lambda outcome: outcome.reward or 0.0)
        return StepReport(
            step=self._state.step,
            reward=metrics["training/reward"],
            metrics=metrics,
            best=_sample(ranked[-1]) if ranked else None,
            worst=_sample(ranked[0]) if ranked else None,
            warnings=[warning] if warning else [],
        )

    def _evaluation_is_due(self) -> bool:
        every = self._config.eval_every
        return every > 0 and self._state.step % every == 0

    async def _evaluate(self, dataset: Dataset[Any]) -> None:
        """Measure the present weights on every validation task."""
        if self._ahead is not None:
            # What is sampled for training must not be sampled as an evaluation is.
            await self._ahead.settle()
        self._progress.phase("evaluating", 0, len(dataset))
        self._set_sampling(self._config.eval_temperature)
        step = self._state.step
        try:
            evaluation, rollout_ids = await self._evaluator.measure(
                dataset,
                step=step,
                on_done=lambda done, all_: self._progress.phase("evaluating", done, all_),
            )
        finally:
            self._set_sampling(self._config.temperature)
        self._unmarked += rollout_ids
        self._state.evaluations.append(evaluation)
        self._progress.evaluated(
            step,
            evaluation.reward,
            evaluation.tasks,
            evaluation.seconds,
            metrics=evaluation.metrics,
        )

    async def _save_checkpoint(self) -> None:
        self._progress.phase("saving")
        state = self._state
        score = next((e.reward for e in state.evaluations if e.step == state.step), None)
        await asyncio.to_thread(
            self._checkpoints.save,
            state.step,
            self._policy.save,
            score=score,
            meta=state.to_dict(),
        )
        # A run that continues from here never reads these again, so a retention policy may act.
        read, self._unmarked = self._unmarked, []
        with contextlib.suppress(NotImplementedError):
            await self._store.mark_read(read)

    def _result(self, *, seconds: float, interrupted: bool, reason: str | None) -> FitResult:
        kept = {checkpoint.path.name for checkpoint in self._checkpoints.all()}
        self._state.evaluations = [
            each if each.checkpoint in kept else replace(each, checkpoint=None)
            for each in self._state.evaluations
        ]
        return FitResult(
            run_dir=self._run.path,
            steps=self._state.step,
            best=self._state.best,
            evaluations=list(self._state.evaluations),
            checkpoint=self._checkpoint_to_use(),
            interrupted=interrupted,
            reason=reason,
            seconds=seconds,
        )

    def _checkpoint_to_use(self) -> Path | None:
        """Return the best evaluated checkpoint, or the last one when none was evaluated."""
        chosen = self._checkpoints.best() or self._checkpoints.latest()
        return chosen.path if chosen else None


def _extremes(rewards: Sequence[float]) -> tuple[float, ...]:
    return (min(rewards), max(rewards)) if rewards else ()


def _reason(error: BaseException | None) -> str:
    """Return why a fit did not come to its last step."""
    if error is None or isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
        return "stopped from outside"
    return f"{type(error).__name__}: {error}"


def _sample(outcome: RolloutOutcome) -> Sample:
    task: Any = outcome.task
    if isinstance(task, dict):
        texts = [value for value in task.values() if isinstance(value, str)]
        task = texts[0] if texts else task
    return Sample(task=str(task), answer=outcome.answer, reward=outcome.reward)


def _next_steps(result: FitResult) -> list[str]:
    assert result.run_dir is not None
    command = "agl" if shutil.which("agl") else f"{sys.executable} -m agentlightning.cli"
    lines = [f"The run lies in {result.run_dir}"]
    if result.checkpoint is not None:
        lines.append(f"  inspect   {command} show {result.run_dir}")
        lines.append(f"  serve     {command} serve {result.checkpoint}")
    again = f"run it again with run_dir={str(result.run_dir)!r}"
    lines.append(
        f"  resume    {again}" if result.interrupted else f"  go on     {again}, more steps"
    )
    return lines
