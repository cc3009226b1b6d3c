"""The run directory: where everything about one run lies, and whether it can be continued.

```
<run_dir>/
  config.json      the algorithm's configuration and the run's id
  store.db         rollouts, attempts, spans, resources (the default store)
  metrics.jsonl    one line per step and evaluation
  checkpoints/     step-000012/ ...
  result.json      written when a fit ends, finished or interrupted
```
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlightning._internal.clock import now
from agentlightning._internal.ids import generate_id
from agentlightning.algorithm.policy.result import RESULT_FILE
from agentlightning.errors import CheckpointError, ConfigurationError
from agentlightning.settings import Settings

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.run_config import RunConfig

__all__ = ["RunDirectory"]


class RunDirectory:
    """One run's directory. `open` decides between a new run and the continuation of one."""

    def __init__(self, path: Path, *, run_id: str, session: int) -> None:
        """Use `open` instead."""
        self.path = path
        self.run_id = run_id
        """Short random id; part of every rollout id of the run."""
        self.session = session
        """1 for the first part of a run, one more after each resume."""

    @property
    def resumed(self) -> bool:
        """Return whether the directory held the run already."""
        return self.session > 1

    @property
    def store_url(self) -> str:
        """Return the URL of the run's own store."""
        return f"sqlite:///{self.path / 'store.db'}"

    @property
    def metrics_path(self) -> Path:
        """Return the path of the metrics file."""
        return self.path / "metrics.jsonl"

    @property
    def has_result(self) -> bool:
        """Return whether a fit has ended here."""
        return (self.path / RESULT_FILE).is_file()

    @property
    def checkpoints_path(self) -> Path:
        """Return the directory of the checkpoints."""
        return self.path / "checkpoints"

    @classmethod
    def open(cls, config: RunConfig, *, algorithm: str, resume: bool | None) -> RunDirectory:
        """Make the directory of a new run, or find that of the run to continue.

        Args:
            config: The configuration; on a resume it must agree with the stored one.
            algorithm: Name of the algorithm, for the name of a new directory.
            resume: See `Trainer.fit`.

        Raises:
            ConfigurationError: The directory holds another run, or one that `resume` forbids.
            CheckpointError: `resume` is True and there is nothing to continue.
        """
        if config.run_dir is None:
            if resume:
                raise CheckpointError(
                    "resume=True needs run_dir= in the algorithm's configuration, to say which "
                    "run to continue."
                )
            stamp = datetime.fromtimestamp(now()).strftime("%Y%m%d-%H%M%S")
            name = f"{algorithm.lower()}-{stamp}-{generate_id(4)}"
            return cls._create(Settings.from_environment().runs_dir / name, config, algorithm)
        path = Path(config.run_dir)
        stored = _read_config(path)
        if stored is None:
            if resume:
                raise CheckpointError(f"{path} holds no run to resume.")
            if path.exists() and any(path.iterdir()):
                raise ConfigurationError(
                    f"{path} is not empty and holds no run: name another run_dir."
                )
            return cls._create(path, config, algorithm)
        if resume is False:
            raise ConfigurationError(
                f"{path} holds a run already: name another run_dir, or resume it."
            )
        _refuse_other_run(path, stored, config, algorithm)
        stored["sessions"] += 1
        _note_changes(stored, config)
        _write_config(path, stored)
        return cls(path.absolute(), run_id=stored["run_id"], session=stored["sessions"])

    @classmethod
    def _create(cls, path: Path, config: RunConfig, algorithm: str) -> RunDirectory:
        path = path.absolute()
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        run_id = generate_id(6)
        content = {"algorithm": algorithm, "run_id": run_id, "sessions": 1}
        _write_config(path, {**content, "config": config.to_dict()})
        return cls(path, run_id=run_id, session=1)


def _note_changes(stored: dict[str, Any], config: RunConfig) -> None:
    """Put the present settings in place, and keep what those that changed were before."""
    earlier, now_ = stored["config"], config.to_dict()
    changed = {name: old for name, old in earlier.items() if now_.get(name) != old}
    if changed:
        replaced = {"until_session": stored["sessions"] - 1, "settings": changed}
        stored["replaced"] = [*stored.get("replaced", []), replaced]
    stored["config"] = now_


def _write_config(path: Path, content: dict[str, Any]) -> None:
    """Write the file whole or not at all, so that a crash leaves a run that can be read."""
    draft = path / "config.tmp"
    draft.write_text(json.dumps(content, indent=2))
    draft.replace(path / "config.json")


def _read_config(path: Path) -> dict[str, Any] | None:
    file = path / "config.json"
    return json.loads(file.read_text()) if file.is_file() else None


def _refuse_other_run(
    path: Path, stored: dict[str, Any], config: RunConfig, algorithm: str
) -> None:
    if stored["algorithm"] != algorithm:
        raise ConfigurationError(
            f"{path} holds a run of {stored['algorithm']}, not of {algorithm}: name another "
            "run_dir."
        )
    different = config.difference(stored["config"])
    if different:
        changes = ", ".join(f"{name} {old!r} → {new!r}" for name, (old, new) in different.items())
        raise ConfigurationError(
            f"{path} holds a run with other settings ({changes}): restore them to resume it, or "
            "name another run_dir."
        )
