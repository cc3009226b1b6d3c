"""`agl weights`: what a run has learnt, as a directory that others load."""

from __future__ import annotations

from pathlib import Path

import click

from agentlightning._internal.extra import RL_LIBRARIES, require_extra

__all__ = ["weights"]


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Directory to make.",
)
@click.option(
    "--adapter-only",
    is_flag=True,
    help="Write the LoRA adapter alone, in peft's format, for a server that has the model.",
)
@click.option("--adapter", help="Which adapter, where the run trained several.")
def weights(source: Path, out: Path, adapter_only: bool, adapter: str | None) -> None:
    """Write the weights of SOURCE in the layout of Hugging Face.

    SOURCE is a run directory (its best checkpoint) or one checkpoint of a run. What is written is
    a whole model, ready for transformers, vLLM or `agl serve`.
    """
    require_extra("rl", *RL_LIBRARIES)
    from agentlightning.algorithm.policy.stored_weights import StoredWeights

    stored = StoredWeights.find(source)
    if stored is None:
        raise click.ClickException(f"{source} is neither a run nor a checkpoint of one.")
    stored.export(out, merged=not adapter_only, adapter=adapter)
    click.echo(f"{out} has the weights of {stored.checkpoint}")
