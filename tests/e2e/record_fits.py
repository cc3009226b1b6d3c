"""Fits on records that are written down as they are read, in a process that can be killed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import agentlightning as agl
from agentlightning.algorithm.policy.result import FitResult
from agentlightning.progress.base import ProgressSink

STEPS, PER_STEP = 9, 2
PATIENCE_SECONDS = 60.0
PAIRS = [("ab", "XY"), ("cd", "ZW"), ("ef", "QR"), ("gh", "ST"), ("ij", "UV")]
"""What is preferred to what. An odd number: steps reach from one pass over the records to the next."""

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "SFT": (agl.SFT, {"lora_rank": None}),
    "SFT with adapters": (agl.SFT, {"lora_rank": 4, "update_epochs": 2, "mini_batches": 2}),
    "DPO": (agl.DPO, {"source": "records", "lora_rank": 4}),
    "DPO of all weights": (agl.DPO, {"source": "records", "lora_rank": None}),
    "KTO": (agl.KTO, {"source": "records", "lora_rank": 4}),
}
"""Title to class, and what its settings have besides those of all."""


class Records:
    """A data set that writes down the number of each record as it is read."""

    def __init__(
        self,
        items: Sequence[Any],
        log: Path,
        *,
        fails_at: int | None = None,
        waits_at: int | None = None,
    ) -> None:
        """Serve `items`; read number `fails_at` fails, and number `waits_at` waits to be killed."""
        self._items, self._log, self._fails_at, self._waits_at = items, log, fails_at, waits_at
        self._count = 0

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        self._count += 1
        if self._count == self._fails_at:
            raise OSError("the disk is gone")
        if self._count == self._waits_at:
            time.sleep(PATIENCE_SECONDS)
        with self._log.open("a") as log:
            log.write(f"{index}\n")
        return self._items[index]


def records_for(title: str) -> list[dict[str, Any]]:
    """Return records as the algorithm of a case reads them."""
    asked = [f"{number}?" for number in range(len(PAIRS))]
    if title.startswith("SFT"):
        return [
            {"prompt": p, "completion": good} for p, (good, _) in zip(asked, PAIRS, strict=True)
        ]
    if title.startswith("DPO"):
        return [
            {"prompt": p, "chosen": good, "rejected": bad}
            for p, (good, bad) in zip(asked, PAIRS, strict=True)
        ]
    return [
        {"prompt": p, "completion": pair[number % 2], "label": number % 2 == 0}
        for number, (p, pair) in enumerate(zip(asked, PAIRS, strict=True))
    ]


def fit(
    title: str,
    model: Path,
    folder: Path,
    progress: Sequence[ProgressSink] = (),
    *,
    resume: bool | None = None,
    steps: int = STEPS,
    **reading: Any,
) -> FitResult:
    """Run, or go on with, the fit whose run directory is `folder/run`.

    Args:
        title: One of `CASES`.
        model: Directory of the model.
        folder: Where everything goes; reads are written to `folder/reads`.
        progress: What watches.
        resume: See `Trainer.fit`.
        steps: Steps of the whole run.
        reading: What `Records` takes.
    """
    torch.set_num_threads(1)
    make, own = CASES[title]
    settings = {"batch_groups": PER_STEP, "learning_rate": 3e-3, "checkpoint_every": 2, **own}
    algorithm = make(
        model=str(model), model_alias="tiny", run_dir=str(folder / "run"), steps=steps,
        progress=progress, **settings,
    )  # fmt: skip
    items = records_for(title)
    train = Records(items, folder / "reads", **reading)
    return agl.Trainer(algorithm=algorithm).fit(
        train_dataset=train, val_dataset=items, resume=resume
    )


def reads(folder: Path) -> list[int]:
    """Return the numbers of the records that were read for training, in their order."""
    path = folder / "reads"
    return [int(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []
