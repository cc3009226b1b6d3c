"""`agl show`: what happened in a run, read from its directory; the run may still be going on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

__all__ = ["show"]


@click.command()
@click.argument("run_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--last", type=int, default=20, show_default=True, help="Steps to show.")
def show(run_dir: Path, last: int) -> None:
    """Show the steps, evaluations and checkpoints of the run in RUN_DIR."""
    if not (run_dir / "config.json").is_file():
        raise click.ClickException(f"{run_dir} holds no run: it has no config.json.")
    stored = json.loads((run_dir / "config.json").read_text())
    _print_run(run_dir, stored, _read_lines(run_dir / "metrics.jsonl"), last)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def _print_run(
    run_dir: Path, stored: dict[str, Any], lines: list[dict[str, Any]], last: int
) -> None:
    from rich.console import Console
    from rich.table import Table

    from agentlightning.progress.terminal import sparkline

    console = Console()
    steps = [line for line in lines if "training/reward" in line]
    console.print(
        f"{stored['algorithm']} on {stored['config']['model']}, run {stored['run_id']}, "
        f"{len(steps)} steps, {stored['sessions']} session(s)",
        highlight=False,
    )
    rewards = [float(line["training/reward"]) for line in steps]
    if rewards:
        console.print(f"reward {rewards[0]:.3f} → {rewards[-1]:.3f}  {sparkline(rewards)}")
    table = Table(box=None, header_style="dim")
    for name in ("step", "reward", "mixed groups", "kl", "grad norm", "seconds"):
        table.add_column(name, justify="right")
    for line in steps[-last:]:
        table.add_row(
            str(line["step"]),
            f"{line['training/reward']:.3f}",
            f"{line['training/mixed_group_share']:.0%}",
            _number(line.get("training/kl")),
            _number(line.get("training/grad_norm")),
            f"{line['timing/step_s']:.1f}",
        )
    console.print(table)
    for line in lines:
        if "val/reward" in line:
            console.print(
                f"evaluation after step {line['step']}: {line['val/reward']:.3f} on "
                f"{line['val/n_rollouts']} tasks",
                highlight=False,
            )
    checkpoints = sorted((run_dir / "checkpoints").glob("step-*"))
    console.print(f"checkpoints: {', '.join(path.name for path in checkpoints) or 'none'}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
