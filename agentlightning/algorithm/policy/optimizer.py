"""What the algorithms that train a model have in common: configuration, run directory, loop."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from agentlightning._internal.extra import RL_LIBRARIES, require_extra
from agentlightning.algorithm.base import Algorithm
from agentlightning.algorithm.policy.result import FitResult
from agentlightning.algorithm.policy.run_config import RunConfig
from agentlightning.algorithm.policy.run_dir import RunDirectory
from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.learner import Learner
    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.algorithm.policy.records import RecordSource
    from agentlightning.learning.demonstrations import ReadRecord
    from agentlightning.progress.base import ProgressSink
    from agentlightning.store.base import LightningStore
    from agentlightning.types import Dataset

__all__ = ["PolicyOptimizer"]

logger = logging.getLogger(__name__)

ConfigT = TypeVar("ConfigT", bound=RunConfig)


class PolicyOptimizer(Algorithm, Generic[ConfigT]):
    """Trains a model on what its own rollouts bring.

    A subclass names its configuration and its learner; everything else is here and in
    `PolicyLoop`.
    """

    preferred_strategy: ClassVar[str | None] = "shm"

    config_class: ClassVar[type[RunConfig]]
    """The configuration's class; its fields are the constructor's keyword arguments."""

    def __init__(
        self,
        config: ConfigT | None = None,
        *,
        progress: Sequence[ProgressSink] | None = None,
        **settings: Any,
    ) -> None:
        """Check the configuration; nothing is loaded yet.

        Args:
            config: The whole configuration; or give its fields as keyword arguments.
            progress: What watches the fit, besides the metrics file. Default: the terminal view;
                an empty sequence keeps quiet.
            **settings: Fields of the configuration.

        Raises:
            ConfigurationError: A field is unknown or its value makes no sense.
        """
        if config is not None and settings:
            raise ConfigurationError(
                f"Give either config= or its fields ({', '.join(settings)}), not both."
            )
        self.config: ConfigT = self._make_config(settings) if config is None else config
        self._progress = progress
        self._run: RunDirectory | None = None
        self._result: FitResult | None = None

    def _make_config(self, settings: dict[str, Any]) -> Any:
        try:
            return self.config_class(**settings)
        except TypeError as error:
            name = self.config_class.__name__
            raise ConfigurationError(f"{error}: see {name} for the fields.") from error

    @abstractmethod
    def learner(self, policy: Policy) -> Learner:
        """Return what learns from the outcomes of each step; called once, when a fit starts."""

    @property
    def reads(self) -> ReadRecord | None:
        """Return how to read the training data where they are answers to learn from.

        None: they are tasks, and the agent's rollouts bring the answers.
        """
        return None

    @property
    def needs_agent(self) -> bool:
        return self.reads is None

    def prepare(self, *, resume: bool | None) -> str | None:
        require_extra("rl", *RL_LIBRARIES)
        self.config.check_names()
        self._run = RunDirectory.open(self.config, algorithm=type(self).__name__, resume=resume)
        self._result = None
        return self._run.store_url

    async def recover(self, store: LightningStore) -> None:
        from agentlightning.algorithm.policy.collect import cancel_unfinished

        if self._run is not None and self._run.resumed:
            count = await cancel_unfinished(store, run_id=self._run.run_id)
            logger.info("run resumed", extra={"open_rollouts_cancelled": count})

    def get_result(self) -> FitResult | None:
        if self._result is None and self._run is not None and self._run.has_result:
            # The algorithm ran in a process of its own; its directory is here all the same.
            return FitResult.load(self._run.path)
        return self._result

    async def run(
        self,
        train_dataset: Dataset[Any] | None = None,
        val_dataset: Dataset[Any] | None = None,
    ) -> None:
        """Train for the configured number of steps.

        Raises:
            ConfigurationError: There is no training task.
            EmptyBatchError: A step's rollouts hold nothing to learn from.
            NonFiniteLossError: The loss became NaN or infinite.
        """
        from agentlightning.algorithm.policy.loop import PolicyLoop
        from agentlightning.algorithm.policy.policy import Policy

        if self._run is None:
            self.prepare(resume=None)
        assert self._run is not None
        store = self.get_store()
        policy = Policy(self.config, store, session=self._run.session)
        loop = PolicyLoop(
            type(self).__name__,
            self.config,
            self._run,
            store,
            policy,
            self.learner(policy),
            self._sink(self._run),
            records=self._records(policy),
        )
        self._result = await loop.run(train_dataset, val_dataset)

    def _records(self, policy: Policy) -> RecordSource | None:
        from agentlightning.algorithm.policy.records import RecordSource

        read = self.reads
        if read is None:
            return None
        return RecordSource(self.config, policy, read, has_agent=self.has_agent)

    def _sink(self, run: RunDirectory) -> ProgressSink:
        from agentlightning.progress import FanOut, JsonlSink, TerminalSink

        watching: Sequence[ProgressSink] = (
            [TerminalSink()] if self._progress is None else self._progress
        )
        return FanOut([JsonlSink(run.metrics_path), *watching])
