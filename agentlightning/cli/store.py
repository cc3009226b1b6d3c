"""`agl store`: a store server for algorithms and runners in other processes and machines.

The subcommands that look after the data of a store are in `store_data`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import click

from agentlightning.cli.store_data import check, copy, export_otlp, prune, stats

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore
    from agentlightning.store.http.server import LightningStoreServer
    from agentlightning.utils.metrics import MetricsBackend

__all__ = ["store", "store_url"]

TRACKERS: Final = ("prometheus", "console")
DEFAULT_PORT: Final = 4747
DEFAULT_BODY_LIMIT: Final = 256 * 1024 * 1024
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
@click.option("--mongo-uri", help=f"For --backend mongo.  [default: {DEFAULT_MONGO_URI}]")
@click.option("--mongo-database", help="Database, over the one of --mongo-uri.")
@click.option("--mongo-partition", help="The store's name in the database, over --mongo-uri's.")
@click.option(
    "--url",
    help="Store to serve, such as sqlite:///runs/a.db, redis://... or postgresql://..., with all "
    "its options; instead of --backend.",
)
@click.option("--run-id", help="The run that this store belongs to; clients of others are refused.")
@click.option(
    "--body-limit",
    type=click.IntRange(1),
    default=DEFAULT_BODY_LIMIT,
    show_default=True,
    help="Largest accepted request in bytes.",
)
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
    mongo_uri: str | None,
    mongo_database: str | None,
    mongo_partition: str | None,
    url: str | None,
    run_id: str | None,
    body_limit: int,
) -> int:
    """Serve a store over HTTP, until Ctrl-C; or look after its data with a subcommand."""
    if context.invoked_subcommand is not None:
        return 0
    from agentlightning._internal.serving import loop_factory
    from agentlightning.logging import setup
    from agentlightning.store.http.server import LightningStoreServer
    from agentlightning.store.url import open_store

    address = store_url(url, backend, mongo_uri, mongo_database, mongo_partition)
    setup(log_level)
    if token_file is not None:
        token = token_file.read_text().strip() or None
    metrics = _make_tracker(tracker)
    served: LightningStore = open_store(address, tracker=metrics)
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
        run_id=run_id,
        body_limit=body_limit,
    )
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(server, served))
    return 0


def store_url(
    url: str | None,
    backend: str,
    mongo_uri: str | None = None,
    mongo_database: str | None = None,
    mongo_partition: str | None = None,
) -> str:
    """Return the URL of the store that the options name.

    Raises:
        UsageError: They name more than one.
    """
    names_mongo = bool(mongo_uri or mongo_database or mongo_partition)
    if url is not None and (backend != "memory" or names_mongo):
        raise click.UsageError("--url names the store: leave out --backend and --mongo-*.")
    if backend != "mongo":
        if names_mongo:
            raise click.UsageError("--mongo-* options need --backend mongo.")
        return url or "memory://"
    parts = urlsplit(mongo_uri or DEFAULT_MONGO_URI)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    if mongo_partition:
        pairs = [pair for pair in pairs if pair[0] != "partition"] + [
            ("partition", mongo_partition)
        ]
    path = parts.path if not mongo_database else "/" + quote(mongo_database, safe="")
    return f"{parts.scheme}://{parts.netloc}{path or '/'}" + (
        f"?{urlencode(pairs)}" if pairs else ""
    )


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
