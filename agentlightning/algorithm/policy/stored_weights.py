"""The weights that a run left in a checkpoint: found from a path, loaded, and written for others.

Read-only: a run that is still going on may be read beside it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from agentlightning.algorithm.policy.run_config import RunConfig
from agentlightning.errors import CheckpointError, ConfigurationError
from agentlightning.learning.checkpoint import CheckpointStore

if TYPE_CHECKING:
    from agentlightning.engine.loading import LoadedModel
    from agentlightning.learning.backends.torch import TorchTrainBackend

__all__ = ["StoredWeights"]


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """One checkpoint of one run."""

    checkpoint: Path
    config: RunConfig
    """What the run's configuration has in common with every other's."""

    @classmethod
    def find(cls, path: Path) -> StoredWeights | None:
        """Return the checkpoint that a path means, or None when it is no run's.

        Args:
            path: A run's directory (the best checkpoint, else the last), or one checkpoint.

        Raises:
            CheckpointError: The run has no checkpoint yet, or this one is damaged.
        """
        if _is_run(path):
            checkpoints = CheckpointStore(path / "checkpoints")
            chosen = checkpoints.best() or checkpoints.latest()
            if chosen is None:
                raise CheckpointError(f"the run in {path} has no checkpoint yet")
        elif path.parent.name == "checkpoints" and _is_run(path.parent.parent):
            chosen = CheckpointStore.read(path)
        else:
            return None
        CheckpointStore.verify(chosen)
        return cls(chosen.path, _config(chosen.path.parent.parent))

    def load(self) -> tuple[LoadedModel, TorchTrainBackend]:
        """Load the model with the checkpoint's weights in it.

        Raises:
            ConfigurationError: The model that the run began with is not there any more.
            CheckpointError: The checkpoint does not fit it.
        """
        from agentlightning.algorithm.policy.train_backend import make_train_backend
        from agentlightning.engine.loading import load_model

        loaded = load_model(self.config.model, dtype=self.config.dtype, device=self.config.device)
        backend = make_train_backend(self.config, loaded.model)
        backend.restore(self.checkpoint)
        return loaded, backend

    def export(self, path: Path, *, merged: bool = True, adapter: str | None = None) -> Path:
        """Write the weights and the tokenizer in the layout of Hugging Face.

        Args:
            path: Directory to make; it must not hold anything yet.
            merged: Write a whole model, its adapters added to its weights; otherwise the adapter
                alone, in peft's format.
            adapter: Which one, where the run trained several.

        Returns:
            `path`.

        Raises:
            ConfigurationError: `path` is not empty, or there is no such adapter.
            CheckpointError: The checkpoint does not fit the model.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigurationError(f"{path} is not empty; name a new directory.")
        if not merged and self.config.lora_rank is None:
            raise ConfigurationError(
                "The run trained every weight, so there is no adapter; export it merged."
            )
        loaded, backend = self.load()
        draft = path.with_name(f".{path.name}-{uuid4().hex[:8]}")
        try:
            backend.export(
                draft, merged=merged, **({} if adapter is None else {"adapter": adapter})
            )
            loaded.tokenizer.save_pretrained(str(draft))
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                path.rmdir()
            draft.rename(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return path


def _is_run(path: Path) -> bool:
    return (path / "config.json").is_file() and (path / "checkpoints").is_dir()


def _config(run_dir: Path) -> RunConfig:
    stored: dict[str, Any] = json.loads((run_dir / "config.json").read_text())["config"]
    shared = {field.name for field in fields(RunConfig)}
    return RunConfig(**{name: value for name, value in stored.items() if name in shared})
