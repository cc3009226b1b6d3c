"""Checkpoint directories that are either whole or not there.

A checkpoint is `step-000012/`: files written by the caller, and `manifest.json` with the size and
hash of each. It is written under another name and renamed when complete, so a process killed at
any moment leaves nothing that looks like one. What is in the files is the caller's business.
"""

import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from agentlightning.errors import CheckpointError

__all__ = ["Checkpoint", "CheckpointStore"]

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{6,})")
_PARTIAL = "partial-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One complete checkpoint."""

    path: Path
    step: int
    score: float | None
    """What "best" is judged by, larger is better; None if it was not evaluated."""

    meta: Mapping[str, Any]
    """Whatever the caller stored beside the files."""


class CheckpointStore:
    """The checkpoints of one run.

    One process writes at a time; any number may read.
    """

    def __init__(self, directory: Path, *, keep: int = 3) -> None:
        """Keep the last `keep` checkpoints, and the best one, in `directory`."""
        self.directory, self.keep = directory, keep

    def save(
        self,
        step: int,
        write: Callable[[Path], None],
        *,
        score: float | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Checkpoint:
        """Write a checkpoint and remove those that are no longer kept.

        Saving a step again replaces it.

        Args:
            step: Number of the training step that is complete.
            write: Writes the files into an empty directory.
            score: Result of an evaluation, larger is better.
            meta: JSON-able values to keep beside the files.
        """
        partial = self.directory / f"{_PARTIAL}{uuid4().hex}"
        partial.mkdir(parents=True)
        try:
            write(partial)
            self._seal(partial, step, score, meta or {})
            final = self.directory / f"step-{step:06d}"
            if final.exists():
                self._discard(final)
            partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        _sync(self.directory)
        self._prune()
        return self.read(final)

    def _discard(self, path: Path) -> None:
        """Remove a checkpoint so that it is never seen half removed."""
        gone = self.directory / f"{_PARTIAL}{uuid4().hex}"
        path.rename(gone)
        shutil.rmtree(gone)

    @staticmethod
    def _seal(path: Path, step: int, score: float | None, meta: Mapping[str, Any]) -> None:
        files = {
            str(file.relative_to(path)): {"size": file.stat().st_size, "sha256": _digest(file)}
            for file in sorted(path.rglob("*"))
            if file.is_file()
        }
        for name in files:
            _sync(path / name)
        manifest = {"format": 1, "step": step, "score": score, "meta": dict(meta), "files": files}
        (path / MANIFEST).write_text(json.dumps(manifest, indent=1))
        _sync(path / MANIFEST)
        _sync(path)

    def _prune(self) -> None:
        """Keep the last few and the best; also remove what interrupted writers left."""
        checkpoints = self.all()
        best = _best_of(checkpoints)
        for checkpoint in checkpoints[: -self.keep]:
            if best is None or checkpoint.step != best.step:
                self._discard(checkpoint.path)
        for leftover in self.directory.glob(f"{_PARTIAL}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def all(self) -> list[Checkpoint]:
        """Return the checkpoints whose manifests can be read, oldest step first.

        Files are not hashed here; `verify` does that.
        """
        if not self.directory.is_dir():
            return []
        found: list[Checkpoint] = []
        for path in self.directory.iterdir():
            if not (path.is_dir() and _NAME.fullmatch(path.name)):
                continue
            try:
                found.append(self.read(path))
            except CheckpointError as error:
                logger.warning("unusable checkpoint", extra={"path": str(path), "why": str(error)})
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint that passes `verify`, or None.

        A damaged one is reported as a warning and passed over.
        """
        for checkpoint in reversed(self.all()):
            try:
                self.verify(checkpoint)
            except CheckpointError as error:
                logger.warning(
                    "damaged checkpoint",
                    extra={"path": str(checkpoint.path), "why": str(error)},
                )
            else:
                return checkpoint
        return None

    def best(self) -> Checkpoint | None:
        """Return the checkpoint with the largest score, the latest of equals, or None when none has
        a score; NaN is none.
        """
        return _best_of(self.all())

    @staticmethod
    def read(path: Path) -> Checkpoint:
        """Read one checkpoint's manifest.

        Raises:
            CheckpointError: There is none, or it is not one of ours.
        """
        manifest = _manifest(path)
        return Checkpoint(
            path=path, step=manifest["step"], score=manifest["score"], meta=manifest["meta"]
        )

    @staticmethod
    def verify(checkpoint: Checkpoint) -> None:
        """Compare every file with the manifest.

        Raises:
            CheckpointError: A file is missing or differs; the message names it.
        """
        for name, expected in _manifest(checkpoint.path)["files"].items():
            file = checkpoint.path / name
            if not file.is_file():
                raise CheckpointError(f"{checkpoint.path}: {name} is missing")
            if file.stat().st_size != expected["size"] or _digest(file) != expected["sha256"]:
                raise CheckpointError(f"{checkpoint.path}: {name} is not what was written")


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} has no readable {MANIFEST}: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != 1:
        raise CheckpointError(f"{path}: the manifest's format is not known to this version")
    return manifest


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Force a file or directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _best_of(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    # Nothing is larger than NaN, so it would stay the best.
    scored = [(c.score, c.step, c) for c in checkpoints if c.score is not None]
    known = [each for each in scored if not math.isnan(each[0])]
    return max(known, key=lambda each: each[:2])[2] if known else None
