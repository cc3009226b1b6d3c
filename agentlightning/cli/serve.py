"""`agl serve`: a model, or what a run made of it, behind an OpenAI-compatible URL."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentlightning._internal.extra import RL_LIBRARIES, require_extra

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.policy import Policy

__all__ = ["serve"]


@click.command()
@click.argument("source")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=8000, show_default=True, help="0 chooses a free one.")
@click.option("--token", default=None, help="What clients must send as their API key.")
def serve(source: str, host: str, port: int, token: str | None) -> None:
    """Serve SOURCE to OpenAI clients, until Ctrl-C.

    SOURCE is a run directory (its best checkpoint), one checkpoint of a run, a catalogue name
    such as smollm2-135m-instruct, a model directory, or a hub id.
    """
    try:
        asyncio.run(_serve(source, host, port, token))
    except KeyboardInterrupt:
        click.echo("stopped")


async def _serve(source: str, host: str, port: int, token: str | None) -> None:
    policy = await _open_policy(source)
    try:
        await policy.open_gateway(host=host, port=port, secret=token)
        click.echo(f"{policy.alias} at {policy.endpoint}")
        await asyncio.Event().wait()
    finally:
        await policy.stop()


async def _open_policy(source: str) -> Policy:
    require_extra("rl", *RL_LIBRARIES)
    from agentlightning.algorithm.grpo import GRPOConfig
    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.store.memory import InMemoryLightningStore

    checkpoint = _checkpoint_of(Path(source))
    if checkpoint is None:
        config = GRPOConfig(model=source)
    else:
        stored = json.loads((checkpoint.parent.parent / "config.json").read_text())
        config = GRPOConfig(**stored["config"])
    policy = Policy(config, InMemoryLightningStore(thread_safe=True))
    await policy.load(checkpoint)
    return policy


def _checkpoint_of(path: Path) -> Path | None:
    """Return the checkpoint that a path means, or None when it is no run's."""
    if (path / "config.json").is_file() and (path / "checkpoints").is_dir():
        from agentlightning.learning.checkpoint import CheckpointStore

        checkpoints = CheckpointStore(path / "checkpoints")
        chosen = checkpoints.best() or checkpoints.latest()
        if chosen is None:
            raise click.ClickException(f"The run in {path} has no checkpoint yet.")
        return chosen.path
    if path.parent.name == "checkpoints" and (path.parent.parent / "config.json").is_file():
        return path
    return None
