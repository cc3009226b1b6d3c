"""What a fit leaves behind: the best and the last policy, and where everything lies."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agentlightning.errors import CheckpointError

__all__ = ["RESULT_FILE", "Evaluation", "FitResult"]

RESULT_FILE = "result.json"
"""Name of the file, in a run directory, that says what a fit achieved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One measurement on the validation tasks."""

    step: int
    """Training steps done before it."""
    reward: float
    """Mean over the tasks; a task whose rollout failed counts with the failure reward. Where no
    agent did them, minus the loss, so that more is better in any case."""
    tasks: int
    failed: int = 0
    seconds: float = 0.0
    checkpoint: str | None = None
    """Directory of the checkpoint that holds the measured weights, if it was kept."""
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """What else was measured, by metric name: `val/loss` on held-out answers, for instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What a fit achieved."""

    run_dir: Path | None = None
    """Directory with metrics, checkpoints and the store."""
    steps: int = 0
    """Training steps done, those of earlier, resumed parts included."""
    best: Evaluation | None = None
    """The best evaluation (the latest of equals)."""
    evaluations: list[Evaluation] = field(default_factory=list[Evaluation])
    checkpoint: Path | None = None
    """Directory of the checkpoint to use: the best evaluated one that was kept, else the last."""
    interrupted: bool = False
    """Whether the fit was stopped before its last step."""
    reason: str | None = None
    """Why, if it was: an error, or that somebody stopped it."""
    seconds: float = 0.0
    """Wall time of this part of the run."""

    def metrics(self) -> list[dict[str, Any]]:
        """Return the metrics of every step, read from the run directory."""
        path = self.run_dir / "metrics.jsonl" if self.run_dir else None
        if path is None or not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text().splitlines() if line]

    def export(self, path: str | Path, *, merged: bool = True, adapter: str | None = None) -> Path:
        """Write the weights of `checkpoint` in the layout of Hugging Face, with the tokenizer.

        The directory is ready for transformers, vLLM or `agl serve`. Blocks while it loads the
        model; needs the `rl` extra.

        Args:
            path: Directory to make; it must not hold anything yet.
            merged: Write a whole model, its adapters added to its weights; otherwise the adapter
                alone, in peft's format.
            adapter: Which one, where the run trained several.

        Returns:
            `path`.

        Raises:
            CheckpointError: There is no checkpoint, or it is damaged.
            ConfigurationError: `path` is not empty, or there is no such adapter.
        """
        from agentlightning.algorithm.policy.stored_weights import StoredWeights

        if self.checkpoint is None:
            raise CheckpointError("This fit left no checkpoint whose weights could be exported.")
        stored = StoredWeights.find(self.checkpoint)
        if stored is None:
            raise CheckpointError(f"{self.checkpoint} is no checkpoint of a run any more.")
        return stored.export(Path(path), merged=merged, adapter=adapter)

    def save(self) -> None:
        """Write the result into its run directory, replacing an earlier one atomically."""
        if self.run_dir is None:
            raise CheckpointError("This result has no run directory to be saved in.")
        fields = asdict(self)
        fields["run_dir"] = str(self.run_dir)
        fields["checkpoint"] = str(self.checkpoint) if self.checkpoint else None
        target = self.run_dir / RESULT_FILE
        draft = target.with_suffix(".tmp")
        draft.write_text(json.dumps(fields, indent=2))
        draft.replace(target)

    @classmethod
    def load(cls, run_dir: Path) -> FitResult:
        """Read the result that a finished or interrupted fit left in its run directory.

        Raises:
            CheckpointError: There is none.
        """
        path = run_dir / RESULT_FILE
        if not path.is_file():
            raise CheckpointError(f"{run_dir} holds no {RESULT_FILE}: no fit has ended there yet.")
        fields = json.loads(path.read_text())
        evaluations = [Evaluation(**each) for each in fields.pop("evaluations")]
        best = fields.pop("best")
        checkpoint = fields.pop("checkpoint")
        fields["run_dir"] = Path(fields["run_dir"])
        return cls(
            **fields,
            evaluations=evaluations,
            best=Evaluation(**best) if best else None,
            checkpoint=Path(checkpoint) if checkpoint else None,
        )
