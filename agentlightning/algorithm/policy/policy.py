"""The policy: one set of weights that is sampled, served to agents, and trained.

The only place where inference, gateway and train backend meet. The embedded engine samples the very
module that is trained, so it stands still while the backend changes it; a model server elsewhere
goes on meanwhile. Either is told the new version afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

import torch

from agentlightning.algorithm.policy.first_check import FirstCheck
from agentlightning.algorithm.policy.train_backend import make_train_backend
from agentlightning.algorithm.policy.train_thread import TrainThread
from agentlightning.engine.loading import load_model
from agentlightning.engine.sampling import derive_seed
from agentlightning.errors import ConfigurationError, EngineError
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.server import Gateway
from agentlightning.inference.connect import EmbeddedOptions, connect_inference
from agentlightning.learning.lora import ADAPTER
from agentlightning.types import NamedResources, ProxyLLM

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from agentlightning.algorithm.policy.run_config import RunConfig
    from agentlightning.inference.base import InferenceBackend
    from agentlightning.learning.backends.torch import TorchTrainBackend
    from agentlightning.learning.losses import LossSpec
    from agentlightning.learning.rows import RowBatch
    from agentlightning.learning.value_loss import ValueLossSpec
    from agentlightning.store.base import LightningStore

__all__ = ["Policy"]

P = ParamSpec("P")
T = TypeVar("T")

Stream: TypeAlias = "NDArray[np.float32]"


class Policy:
    """A model under training, behind a gateway. Use it from one event loop.

    The order of calls: `load`, `set_sampling`, `open_gateway`; then anything; at last `stop`.
    """

    def __init__(self, config: RunConfig, store: LightningStore, *, session: int = 1) -> None:
        """Remember what to load.

        Args:
            config: The run's configuration.
            store: Where the gateway records calls.
            session: Which part of the run it is: 1, and one more after each resume.
        """
        self._config = config
        self._store = store
        # The seeds of a resumed part are its own: with the first part's, the members of a group
        # that are still to come would repeat those that are there.
        self._seed = config.seed if session == 1 else derive_seed(config.seed, session)
        self._backend: TorchTrainBackend | None = None
        self._inference: InferenceBackend | None = None
        self._check: FirstCheck | None = None
        self._gateway: Gateway | None = None
        self._thread = TrainThread()
        self._route: ModelRoute | None = None
        self._told: Mapping[str, float] = {}
        """Counts that `history_metrics` told last."""

    @property
    def alias(self) -> str:
        """Return the name under which agents call the model."""
        return self._config.alias

    @property
    def version(self) -> int:
        """Return the version of the weights that are sampled now."""
        return self._inference.version if self._inference is not None else 0

    @property
    def inference(self) -> InferenceBackend:
        """Return what samples the model.

        Raises:
            EngineError: The model is not loaded.
        """
        return _ready(self._inference)

    @property
    def endpoint(self) -> str:
        """Return the base URL for OpenAI clients.

        Raises:
            EngineError: The gateway is not open.
        """
        return _ready(self._gateway).endpoint

    def decode(self, ids: Sequence[int]) -> str:
        """Return token ids as text, special tokens included.

        Raises:
            EngineError: The model is not loaded.
        """
        return self.inference.tokens.tokenizer.decode(list(ids), skip_special_tokens=False)

    def history_metrics(self) -> dict[str, float]:
        """Return how prompts were made since the last call, under the names of metrics.

        Raises:
            EngineError: The model is not loaded.
        """
        stats = self.inference.upstream.history_stats()
        totals: dict[str, float] = {
            "kept_tokens": stats.kept_tokens,
            "evicted": stats.evicted,
            **{f"prompts_{kind}": count for kind, count in stats.prompts.items()},
            **{f"lost_{cause.value}": count for cause, count in stats.causes.items()},
        }
        before, self._told = self._told, totals
        return {f"history/{name}": n - before.get(name, 0) for name, n in totals.items()}

    async def load(self, checkpoint: Path | None, *, version: int = 0) -> None:
        """Load the model, and what a checkpoint adds to it.

        Args:
            checkpoint: Directory of a checkpoint, or None for the model as it is.
            version: Version of these weights.

        Raises:
            ConfigurationError: The model cannot be found or trained.
            CheckpointError: The checkpoint is damaged or of another model.
            UpstreamError: The model server cannot be reached.
        """
        await self._thread.run(self._load, checkpoint)
        inference = self.inference
        await inference.start()
        if self._config.temperature != 1.0 and not inference.processed_logprobs:
            raise ConfigurationError(
                f"temperature={self._config.temperature} needs the probabilities that tokens were "
                "drawn with, and the model server tells others. Start it with --logprobs-mode "
                "processed_logprobs, or use temperature=1."
            )
        await inference.publish(version, _ready(self._backend))

    def _load(self, checkpoint: Path | None) -> None:
        config = self._config
        # Adapters start from random numbers; a resumed run must start from the same ones.
        torch.manual_seed(config.seed)
        loaded = load_model(config.model, dtype=config.dtype, device=config.device)
        self._backend = make_train_backend(
            config, loaded.model, devices=config.devices, shard=config.shard
        )
        if checkpoint is not None:
            self._backend.restore(checkpoint)
        self._inference = connect_inference(
            config.inference,
            model=loaded.model,
            tokenizer=loaded.tokenizer,
            name=self.alias,
            history=config.history,
            roles=config.adapters,
            embedded=EmbeddedOptions(seed=self._seed, overlap=config.overlap, swap=config.swap),
            weights_dir=config.weights_dir,
        )
        self._check = FirstCheck(exact=config.inference == "embedded")
        self._route = ModelRoute(upstream=self._inference.upstream, model=self.alias)

    def set_sampling(self, *, forced: Mapping[str, Any], max_tokens: int) -> None:
        """Decide how the model is sampled from the next call on.

        Args:
            forced: Request members that replace the client's.
            max_tokens: Longest answer of a call that does not say.
        """
        self._route = replace(
            _ready(self._route),
            sampling_overrides=forced,
            sampling_defaults={"max_tokens": max_tokens},
        )
        if self._gateway is not None:
            self._gateway.set_model(self.alias, self._route)

    async def open_gateway(
        self, *, host: str = "127.0.0.1", port: int = 0, secret: str | None = None
    ) -> None:
        """Serve the model; every name that agents may call leads to it.

        Raises:
            ConfigurationError: A public address without a secret.
            OSError: The address is taken.
        """
        self._gateway = Gateway(
            self._store,
            models={self.alias: _ready(self._route)},
            default_model=self.alias,
            host=host,
            port=port,
            secret=secret,
        )
        await self._gateway.start()

    async def stop(self) -> None:
        """Close the gateway, end inference and what trains; idempotent."""
        if self._gateway is not None:
            await self._gateway.stop()
        if self._inference is not None:
            await self._inference.stop()
        if self._backend is not None:
            await self._thread.run(self._backend.close)
        await self._thread.close()

    def resources(self) -> NamedResources:
        """Return what agents need to call the model."""
        return {"main_llm": ProxyLLM(endpoint=self.endpoint, model=self.alias)}

    async def train(self, batch: RowBatch, loss: LossSpec) -> dict[str, float]:
        """Take one training step and sample the new weights from then on.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite; the weights are as they were.
            TrainingError: Before the first update: engine and trainer disagree on what was sampled.
        """
        return await self._change(lambda: self._step(batch, loss, ADAPTER))

    async def train_adapters(
        self, batches: Mapping[str, RowBatch], loss: LossSpec
    ) -> dict[str, float]:
        """Train each adapter on its own batch and sample them from then on, as one new version.

        Args:
            batches: A batch for each adapter; those without anything to train stay as they are.
            loss: What to minimise.

        Returns:
            The metrics of each adapter, named `training/{adapter}/...`, and under the plain names
            the means over those that were trained, or the sums of counts.

        Raises:
            NonFiniteLossError: The loss of an adapter is NaN or infinite; it is as it was, and
                those before it are trained.
        """

        def train() -> dict[str, float]:
            trained = {name: batch for name, batch in batches.items() if batch.n_trained}
            return mean_metrics({n: self._step(b, loss, n) for n, b in trained.items()})

        return await self._change(train)

    def _step(self, batch: RowBatch, loss: LossSpec, adapter: str) -> dict[str, float]:
        """Train one adapter, in a thread; before the first time, look whether both sides agree."""
        backend, version = _ready(self._backend), self.version
        checked = _ready(self._check).metrics(backend, batch, version, adapter)
        return backend.step(batch, loss, adapter, version=version) | checked

    async def _change(self, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Change the weights in a thread, and publish them as one more version."""
        inference, backend = self.inference, _ready(self._backend)
        if inference.shares_weights:
            await inference.pause(mode=self._config.swap)
        try:
            metrics = await self._thread.run(work)
            await inference.publish(inference.version + 1, backend)
        finally:
            await inference.resume()
        return metrics

    async def logprobs(self, batch: RowBatch, *, reference: bool = False) -> list[Stream]:
        """Score the trained tokens of every row, without learning.

        Args:
            batch: The rows.
            reference: Score under the model as it was before training, not as it is now.

        Returns:
            A stream per row, NaN where nothing is trained.

        Raises:
            ConfigurationError: The backend has no reference.
        """
        backend = _ready(self._backend)
        score = backend.reference_logprobs if reference else backend.logprobs
        return await self._undisturbed(score, batch)

    async def values(self, batch: RowBatch) -> list[Stream]:
        """Return what the critic predicts before each trained token, a stream per row.

        Raises:
            ConfigurationError: The configuration has no critic.
        """
        return await self._undisturbed(_ready(self._backend).values, batch)

    async def train_critic(self, batch: RowBatch, loss: ValueLossSpec) -> dict[str, float]:
        """Let the critic learn from rows with returns; the policy and its version stay.

        Raises:
            ConfigurationError: The configuration has no critic.
            NonFiniteLossError: The loss is NaN or infinite; the critic is as it was.
        """
        return await self._undisturbed(_ready(self._backend).step_critic, batch, loss)

    async def _undisturbed(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `work` in a thread, while nobody samples the module that it computes with."""
        inference = self.inference
        if not inference.shares_weights:
            return await self._thread.run(work, *args, **kwargs)
        # Scoring chooses adapters on the very module that is sampled.
        await inference.pause(mode=self._config.swap)
        try:
            return await self._thread.run(work, *args, **kwargs)
        finally:
            await inference.resume()

    def save(self, path: Path) -> None:
        """Write weights, optimiser and random state into the directory `path`; blocks."""
        _ready(self._backend).save(path)


def mean_metrics(told: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return metrics by adapter: each under a name of its own, and their means, or sums of counts.

    Example:
        >>> mean_metrics({"a": {"training/loss": 1.0}, "b": {"training/loss": 3.0}})
        {'training/a/loss': 1.0, 'training/b/loss': 3.0, 'training/loss': 2.0}
    """
    own = {
        f"training/{name}/{metric.removeprefix('training/')}": value
        for name, metrics in told.items()
        for metric, value in metrics.items()
    }
    plain = dict.fromkeys(metric for metrics in told.values() for metric in metrics)
    for metric in plain:
        values = [metrics[metric] for metrics in told.values() if metric in metrics]
        counts = metric.startswith("training/n_")
        own[metric] = sum(values) if counts else sum(values) / len(values)
    return own


def _ready(part: T | None) -> T:
    if part is None:
        raise EngineError("The policy is not loaded or not open yet: see the order of calls.")
    return part
