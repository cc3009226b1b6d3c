"""The `agl` command: one module for each subcommand, loaded when it is used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final

import click

from agentlightning._internal.version import __version__
from agentlightning.errors import AgentLightningError

__all__ = ["main"]

COMMANDS: Final = {
    "export": "agentlightning.cli.export",
    "serve": "agentlightning.cli.serve",
    "show": "agentlightning.cli.show",
    "store": "agentlightning.cli.store",
    "weights": "agentlightning.cli.weights",
}
"""Subcommand to the module that defines it under the same name."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        return getattr(importlib.import_module(module), cmd_name) if module else None


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agl")
def agl() -> None:
    """Train any AI agent, and look at what it does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        argv: Arguments after the program's name; None takes those of this process.
    """
    arguments = None if argv is None else list(argv)
    try:
        status = agl.main(args=arguments, prog_name="agl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return 130
    except (AgentLightningError, RuntimeError) as error:
        click.echo(f"Error: {error}", err=True)
        return 1
    return status if isinstance(status, int) else 0


def run() -> None:
    """Run the command line and end the process."""
    sys.exit(main())
