"""What fits brought, kept in a file from one call of the program to the next."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.curves.curve import Curve, Figures

__all__ = ["Records"]


class Records:
    """Figures by curve, seed and control; a later fit replaces the earlier one."""

    def __init__(self, path: Path) -> None:
        """Read `path`, one fit a line, if it is there."""
        self._path = path
        self._found: dict[tuple[str, int, bool], Figures] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                key = (record["curve"], record["seed"], record["shuffled"])
                self._found[key] = Figures(**record["figures"])

    def add(self, curve: str, seed: int, shuffled: bool, figures: Figures) -> None:
        """Keep what a fit brought, at once."""
        self._found[curve, seed, shuffled] = figures
        record = {"curve": curve, "seed": seed, "shuffled": shuffled, "figures": asdict(figures)}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def fits(self, curve: Curve) -> list[tuple[int, Figures]]:
        """Return the fits of a curve by seed, the control left out."""
        found = [
            (seed, figures)
            for (name, seed, shuffled), figures in self._found.items()
            if name == curve.name and not shuffled
        ]
        return sorted(found, key=lambda fit: fit[0])

    def control(self, curve: Curve) -> Figures | None:
        """Return the fit of a curve with shuffled advantages."""
        return self._found.get((curve.name, 0, True))

    def passed(self, curve: Curve) -> bool:
        """Return whether a curve was fitted, and every fit ended as it must."""
        fits, control = self.fits(curve), self.control(curve)
        return (
            bool(fits)
            and all(curve.passed(figures, shuffled=False) for _, figures in fits)
            and (control is None or curve.passed(control, shuffled=True))
        )
