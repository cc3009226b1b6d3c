"""`agl export`: data sets for fine-tuning out of a run or a store."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentlightning.adapter.export.exporter import FORMATS

if TYPE_CHECKING:
    from agentlightning.adapter.export import ExportedData, ExportOptions

__all__ = ["export"]


@click.command()
@click.argument("source")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), required=True)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="File to write: .jsonl, or .parquet for TRL's formats.",
)
@click.option(
    "--status",
    "statuses",
    type=click.Choice(["succeeded", "failed"]),
    multiple=True,
    help="Rollouts that ended so; repeatable.  [default: succeeded]",
)
@click.option("--mode", "modes", type=click.Choice(["train", "val", "test"]), multiple=True)
@click.option("--metadata", "pairs_of_metadata", multiple=True, metavar="KEY=VALUE")
@click.option("--agent", "agents", help="Regular expression for the names of agents.")
@click.option("--reward-name", help="Dimension of the rewards that counts.")
@click.option("--min-reward", type=float)
@click.option("--max-reward", type=float)
@click.option("--best-of-group", type=click.IntRange(1), help="Best rollouts kept per task.")
@click.option("--per-call", is_flag=True, help="A record per call, not per conversation.")
@click.option(
    "--pairs", type=click.Choice(["best-worst", "all"]), default="best-worst", show_default=True
)
@click.option("--min-margin", type=click.FloatRange(0), default=0.0, show_default=True)
@click.option("--threshold", type=float, help="trl-kto: good from this reward on.")
@click.option("--token", help="What the server of an http:// store asks for.")
def export(
    source: str, form: str, out: Path, token: str | None, statuses: tuple[str, ...], **given: Any
) -> int:
    """Write the ended rollouts of SOURCE as a data set for fine-tuning.

    SOURCE is the directory of a run or of scripts, a database file, or the URL of a store.
    """
    options = _options(statuses or ("succeeded",), given)
    data = asyncio.run(_export(_store_url(source), token, form, options))
    if not data.records:
        _report(data)
        raise click.ClickException("There is nothing to export; nothing was written.")
    for path in data.write(out):
        click.echo(str(path))
    _report(data)
    return 0


def _options(statuses: tuple[str, ...], given: dict[str, Any]) -> ExportOptions:
    from agentlightning.adapter.export import ExportOptions

    metadata = dict(_pair(text) for text in given.pop("pairs_of_metadata"))
    modes = given.pop("modes") or None
    fields: dict[str, Any] = {"statuses": statuses, "modes": modes, "metadata": metadata, **given}
    return ExportOptions(**fields)


def _pair(text: str) -> tuple[str, Any]:
    """Return key and value; the value is JSON where it is that, else a text."""
    key, mark, value = text.partition("=")
    if not mark:
        raise click.UsageError(f"--metadata {text!r}: write KEY=VALUE.")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _store_url(source: str) -> str:
    path = Path(source)
    if path.is_dir():
        path = path / "store.db"
        if not path.is_file():
            raise click.ClickException(f"{source} holds no store.db: name the store's URL.")
    return f"sqlite:///{path}" if path.is_file() else source


async def _export(url: str, token: str | None, form: str, options: ExportOptions) -> ExportedData:
    from agentlightning.adapter.export import export_rollouts
    from agentlightning.store.url import open_store

    store = open_store(url, token=token)
    try:
        return await export_rollouts(store, form, options)
    finally:
        await store.close()


def _report(data: ExportedData) -> None:
    click.echo(f"{len(data.records)} records from {data.rollouts} rollouts", err=True)
    for reason, count in sorted(data.skipped.items(), key=lambda item: -item[1]):
        click.echo(f"  left out: {count} {reason}", err=True)
