"""`agl serve`: a model, or what a run made of it, behind an OpenAI-compatible URL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from agentlightning._internal.extra import RL_LIBRARIES, require_extra

if TYPE_CHECKING:
    from agentlightning.engine.loading import LoadedModel
    from agentlightning.inference.model_server import ModelServer

__all__ = ["serve"]


def _pair(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> Any:
    """Return `name=path` options as a mapping."""
    pairs = [one.partition("=") for one in given]
    if any(not name or not path for name, _, path in pairs):
        raise click.BadParameter("give NAME=DIRECTORY", context, option)
    if len({name for name, _, _ in pairs}) < len(pairs):
        raise click.BadParameter("each adapter needs a name of its own", context, option)
    if any(name == "default" for name, _, _ in pairs):
        raise click.BadParameter("'default' is what a run's own adapter is called", context, option)
    return {name: path for name, _, path in pairs}


@click.command()
@click.argument("source")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=8000, show_default=True, help="0 chooses a free one.")
@click.option("--token", default=None, help="What clients must send as their API key.")
@click.option("--model-name", default=None, help="Name that clients ask for.")
@click.option(
    "--lora",
    "adapters",
    multiple=True,
    callback=_pair,
    metavar="NAME=DIRECTORY",
    help="A LoRA adapter in peft's format, served as a model of this name. Repeatable.",
)
@click.option("--max-context", type=click.IntRange(2), help="Longest prompt and answer together.")
@click.option(
    "--max-running",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Most completions at once; the others wait.",
)
@click.option(
    "--kv-cache-gib",
    type=click.FloatRange(0, min_open=True),
    default=4.0,
    show_default=True,
    help="Memory for running completions.",
)
@click.option(
    "--prefix-cache-gib",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Memory for beginnings of prompts seen before; 0 turns that off.",
)
@click.option(
    "--history",
    type=click.Choice(["exact", "template"]),
    default="exact",
    show_default=True,
    help="How prompts with earlier answers are made for attempts of rollouts.",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps.")
def serve(source: str, **options: Any) -> None:
    """Serve SOURCE to OpenAI clients, until Ctrl-C.

    SOURCE is a run directory (its best checkpoint), one checkpoint of a run, a catalogue name
    such as smollm2-135m-instruct, a model directory, or a hub id.
    """
    require_extra("rl", *RL_LIBRARIES)
    try:
        asyncio.run(_serve(source, options))
    except KeyboardInterrupt:
        click.echo("stopped")


async def _serve(source: str, options: dict[str, Any]) -> None:
    loaded, name = await asyncio.to_thread(
        _load, source, options["dtype"], options["device"], options["adapters"]
    )
    server = _server(loaded, options["model_name"] or name, options)
    try:
        await server.start()
        click.echo(_opening(server, loaded))
        await asyncio.Event().wait()
    finally:
        await server.stop()


def _load(
    source: str, dtype: str, device: str, adapters: dict[str, str]
) -> tuple[LoadedModel, str]:
    """Return the model with all adapters in it, and the name that it has by itself."""
    from agentlightning.algorithm.policy.stored_weights import StoredWeights
    from agentlightning.engine.adapters import load_adapter
    from agentlightning.engine.loading import load_model

    stored = StoredWeights.find(Path(source))
    if stored is None:
        loaded = load_model(source, dtype=dtype, device=device)
        name = loaded.name
    else:
        # The number format is the run's own unless another is asked for; the machine may differ.
        own = stored.config.dtype if dtype == "auto" else dtype
        config = replace(stored.config, device=device, dtype=own)
        loaded, _ = replace(stored, config=config).load()
        name = config.alias
    for adapter, path in adapters.items():
        load_adapter(loaded.model, adapter, path)
    return loaded, name


def _server(loaded: LoadedModel, name: str, options: dict[str, Any]) -> ModelServer:
    from agentlightning.engine.engine import EngineConfig
    from agentlightning.inference.model_server import ModelServer

    history: Literal["exact", "template"] = options["history"]
    return ModelServer(
        loaded.model,
        loaded.tokenizer,
        name=name,
        host=options["host"],
        port=options["port"],
        secret=options["token"],
        history=history,
        config=EngineConfig(
            max_running=options["max_running"],
            max_context=options["max_context"],
            kv_cache_gib=options["kv_cache_gib"],
            prefix_cache_gib=options["prefix_cache_gib"],
        ),
    )


def _opening(server: ModelServer, loaded: LoadedModel) -> str:
    """Return what a user wants to know at the start, address first."""
    number_format = str(loaded.model.dtype).removeprefix("torch.")
    facts = [
        f"context {server.engine.context}",
        f"{number_format} on {loaded.model.device.type}",
    ]
    if server.adapters:
        facts.append(f"adapters {', '.join(server.adapters)}")
    return f"{server.name} at {server.endpoint} ({'; '.join(facts)})"
