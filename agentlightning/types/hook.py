"""Extension points that users implement: hooks, parallel workers, datasets.

The arguments are typed loosely on purpose: this module sits below agents and runners.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from agentlightning.litagent.base import LitAgent
    from agentlightning.runner.base import Runner
    from agentlightning.tracer.base import Tracer
    from agentlightning.types.rollout import Rollout
    from agentlightning.types.tracer import SpanLike

T_co = TypeVar("T_co", covariant=True)


@runtime_checkable
class Dataset(Protocol[T_co]):
    """Anything with a length and integer indexing; a plain list will do."""

    def __getitem__(self, index: int, /) -> T_co:
        """Return item `index`, from 0."""
        ...

    def __len__(self) -> int: ...


class ParallelWorkerBase:
    """The life cycle that every per-worker component shares; each method does nothing here."""

    worker_id: int | None = None

    def init(self, *args: Any, **kwargs: Any) -> None:
        """Prepare once, in the main process, before workers exist."""

    def init_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Prepare inside one worker."""
        self.worker_id = worker_id

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work."""

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Undo `init_worker`."""

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Undo `init`."""


class Hook(ParallelWorkerBase):
    """Callbacks around one rollout; override what you need.

    An override may declare fewer parameters than shown here and then gets only those. An
    exception in a hook is logged and recorded on the attempt; it does not fail the rollout.
    """

    async def on_trace_start(
        self,
        *,
        agent: "LitAgent[Any]",
        runner: "Runner[Any]",
        tracer: "Tracer",
        rollout: "Rollout",
    ) -> None:
        """Run inside the trace, before the agent."""

    async def on_trace_end(
        self,
        *,
        agent: "LitAgent[Any]",
        runner: "Runner[Any]",
        tracer: "Tracer",
        rollout: "Rollout",
    ) -> None:
        """Run inside the trace, after the agent, also when the agent raised."""

    async def on_rollout_start(
        self, *, agent: "LitAgent[Any]", runner: "Runner[Any]", rollout: "Rollout"
    ) -> None:
        """Run before the trace is opened."""

    async def on_rollout_end(
        self,
        *,
        agent: "LitAgent[Any]",
        runner: "Runner[Any]",
        rollout: "Rollout",
        spans: Sequence["SpanLike"],
    ) -> None:
        """Run after the trace is closed, with its spans; always, also after a failure."""
