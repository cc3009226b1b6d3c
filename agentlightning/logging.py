"""Handlers for people: sends this package's log records to a console or to files.

Nothing of ours calls it; a program does, once, at its start. The package itself only makes
records.
"""

from __future__ import annotations

import logging
import weakref
from pathlib import Path
from typing import Any

__all__ = ["configure_logger", "setup", "setup_module"]

DEFAULT_FORMAT = "%(asctime)s [%(levelname)s] (Process-%(process)d %(name)s)   %(message)s"
DATE_FORMAT = "%H:%M:%S"
PACKAGE = "agentlightning"

_WIDTH_WITHOUT_TERMINAL = 200

_made_here: weakref.WeakSet[logging.Handler] = weakref.WeakSet()


def setup(  # noqa: PLR0913 - Compat 0.3.0: the signature is theirs.
    level: int | str = "INFO",
    *,
    console: bool = True,
    color: bool | dict[str, Any] = True,
    propagate: bool = False,
    disable_existing_loggers: bool = False,
    capture_warnings: bool = False,
    submodule_levels: dict[str, int | str] | None = None,
    extra_handlers: list[logging.Handler] | None = None,
    formatter: logging.Formatter | None = None,
    apply_to: list[str] | None = None,
    files: str | dict[str, str] | None = None,
) -> None:
    """Show or write the package's log records; calling it again replaces what it did before.

    Args:
        level: Least severity that is shown.
        console: Whether to write to standard error.
        color: Whether to use Rich; a dict goes to `RichHandler` as its arguments.
        propagate: Whether records also go to the root logger's handlers.
        disable_existing_loggers: Silence all loggers that exist now and are not set up here.
        capture_warnings: Log what `warnings.warn` says.
        submodule_levels: Levels of single loggers, by full name.
        extra_handlers: Handlers to add; they keep their own level.
        formatter: Format of the plain console, the files, and extra handlers without one.
        apply_to: Other loggers to set up in the same way.
        files: A file for all of these loggers, or a file for each logger by name. Appended to.
    """
    names = [PACKAGE, *(apply_to or [])]
    if disable_existing_loggers:
        _disable_others(names)
    handlers = [_console_handler(color, formatter)] if console else []
    for handler in extra_handlers or []:
        if handler.formatter is None:
            handler.setFormatter(formatter or _plain_formatter())
        handlers.append(handler)
    if isinstance(files, str):
        handlers.append(_file_handler(files, formatter))
    for name in names:
        _configure(name, level, handlers, propagate=propagate)
    for name, path in files.items() if isinstance(files, dict) else ():
        logging.getLogger(name).addHandler(_file_handler(path, formatter))
    for name, own_level in (submodule_levels or {}).items():
        logging.getLogger(name).setLevel(own_level)
    logging.captureWarnings(capture_warnings)
    if capture_warnings:
        _configure("py.warnings", "WARNING", handlers, propagate=propagate)


def setup_module(
    level: int | str = "INFO",
    *,
    name: str = PACKAGE,
    console: bool = True,
    color: bool | dict[str, Any] = True,
    propagate: bool = False,
    disable_existing_loggers: bool = False,
) -> logging.Logger:
    """Set up one logger with a console and return it; the arguments are those of `setup`."""
    if disable_existing_loggers:
        _disable_others([name])
    handlers = [_console_handler(color, None)] if console else []
    return _configure(name, level, handlers, propagate=propagate)


def configure_logger(level: int = logging.INFO, name: str = PACKAGE) -> logging.Logger:
    """Set up one logger; deprecated, use `setup` or `setup_module`."""
    return setup_module(level, name=name)


def _configure(
    name: str, level: int | str, handlers: list[logging.Handler], *, propagate: bool
) -> logging.Logger:
    logger = logging.getLogger(name)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        if handler in _made_here and handler not in handlers:
            handler.close()
    logger.setLevel(level)
    logger.propagate = propagate
    logger.disabled = False
    for handler in handlers:
        logger.addHandler(handler)
    return logger


def _disable_others(names: list[str]) -> None:
    for name, logger in logging.root.manager.loggerDict.items():
        ours = any(name == kept or name.startswith(f"{kept}.") for kept in names)
        if isinstance(logger, logging.Logger) and not ours:
            logger.disabled = True


def _plain_formatter() -> logging.Formatter:
    return logging.Formatter(DEFAULT_FORMAT, DATE_FORMAT)


# Handlers carry no level of their own, so that a submodule may be more verbose than the rest.
def _console_handler(
    color: bool | dict[str, Any], formatter: logging.Formatter | None
) -> logging.Handler:
    if color is False:
        handler = logging.StreamHandler()
        handler.setFormatter(formatter or _plain_formatter())
    else:
        handler = _rich_handler(color if isinstance(color, dict) else {})
    _made_here.add(handler)
    return handler


def _rich_handler(arguments: dict[str, Any]) -> logging.Handler:
    from rich.console import Console
    from rich.logging import RichHandler

    console = Console(stderr=True)
    if not console.is_terminal:
        # Why: without a terminal to ask, Rich would wrap at 80 columns and cut log lines in two.
        console = Console(stderr=True, width=_WIDTH_WITHOUT_TERMINAL)
    options: dict[str, Any] = {"console": console, **arguments}
    handler = RichHandler(**options)
    handler.setFormatter(logging.Formatter("%(name)s   %(message)s", DATE_FORMAT))
    return handler


def _file_handler(path: str, formatter: logging.Formatter | None) -> logging.Handler:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(formatter or _plain_formatter())
    _made_here.add(handler)
    return handler
