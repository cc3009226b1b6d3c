"""`agl store`: a store server for algorithms and runners in other processes and machines.

The subcommands that look after the data of a store are in `store_data`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from agentlightning.cli.store_data import check, copy, export_otlp, prune, stats

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore
    from agentlightning.store.http.server import LightningStoreServer
    from agentlightning.utils.metrics import MetricsBackend

__all__ = ["store"]

TRACKERS: Final = ("prometheus", "console")
DEFAULT_PORT: Final = 4747
DEFAULT_MONGO_URI: Final = "mongodb://localhost:27017/?replicaSet=rs0"


class _ManyTrackers(click.Group):
    """Compat 0.3.0: `--tracker prometheus console` gives several values to one option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        in_list = False
        for position, word in enumerate(args):
            if in_list and word in TRACKERS and args[position - 1] != "--tracker":
                spread.append("--tracker")
            in_list = word == "--tracker" or (in_list and word in TRACKERS)
            spread.append(word)
        return super().parse_args(ctx, spread)


@click.group(cls=_ManyTrackers, invoke_without_command=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="0 chooses a free one.",
)
@click.option("--token", help="What clients must send; visible to other users of this machine.")
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File that holds the token.",
)
@click.option("--insecure", is_flag=True, help="Serve a public address without a token.")
@click.option(
    "--cors-origin", multiple=True, help="Origin whose pages may call; repeatable, * for all."
)
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]),
    default="INFO",
    show_default=True,
)
@click.option(
    "--tracker", type=click.Choice(TRACKERS), multiple=True, help="Where metrics go; repeatable."
)
@click.option("--n-workers", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--backend", type=click.Choice(["memory", "mongo"]), default="memory", show_default=True
)
@click.option("--mongo-uri", default=DEFAULT_MONGO_URI, show_default=True)
@click.option("--url", help="Store to serve, such as sqlite:///runs/a.db; instead of --backend.")
@click.pass_context
def store(  # noqa: PLR0913 - one parameter per option.
    context: click.Context,
    host: str,
    port: int,
    token: str | None,
    token_file: Path | None,
    insecure: bool,
    cors_origin: tuple[str, ...],
    log_level: str,
    tracker: tuple[str, ...],
    n_workers: int,
    backend: str,
    mongo_uri: str,
    url: str | None,
) -> int:
    """Serve a store over HTTP, until Ctrl-C; or look after its data with a subcommand."""
    if context.invoked_subcommand is not None:
        return 0
    from agentlightning.logging import setup
    from agentlightning.store.http.server import LightningStoreServer
    from agentlightning.store.url import open_store

    setup(log_level)
    if token_file is not None:
        token = token_file.read_text().strip() or None
    metrics = _make_tracker(tracker)
    served: LightningStore = open_store(
        url or (mongo_uri if backend == "mongo" else "memory://"), tracker=metrics
    )
    server = LightningStoreServer(
        served,
        host,
        port,
        cors_origin,
        launch_mode="asyncio" if n_workers == 1 else "mp",
        n_workers=n_workers,
        tracker=metrics,
        token=token,
        allow_unauthenticated=insecure,
    )
    asyncio.run(_serve(server, served))
    return 0


async def _serve(server: LightningStoreServer, served: LightningStore) -> None:
    try:
        await server.start()
        click.echo(f"store at {server.endpoint}")
        await server.run_forever()
    finally:
        await served.close()
    click.echo("stopped")


def _make_tracker(names: Sequence[str]) -> MetricsBackend | None:
    from agentlightning.utils.metrics import (
        ConsoleMetricsBackend,
        MultiMetricsBackend,
        PrometheusMetricsBackend,
    )

    makers = {"console": ConsoleMetricsBackend, "prometheus": PrometheusMetricsBackend}
    backends = [makers[name]() for name in dict.fromkeys(names)]
    return MultiMetricsBackend(backends) if backends else None


for _command in (check, copy, export_otlp, prune, stats):
    store.add_command(_command)

if __name__ == "__main__":
    from agentlightning.cli import main

    sys.exit(main(["store", *sys.argv[1:]]))
