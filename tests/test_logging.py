"""Handlers that a program asks for: console, files, levels, warnings.

The functions are not imported by name: pytest would take `setup_module` for its own hook.
"""

import logging
import warnings
from collections.abc import Generator
from pathlib import Path

import pytest

from agentlightning import logging as agl_logging


@pytest.fixture(autouse=True)
def restored_loggers() -> Generator[None, None, None]:
    """Leave every logger as the test found it."""
    names = ["agentlightning", "agentlightning.store", "other", "py.warnings", "silenced"]
    loggers = [logging.getLogger(name) for name in names]
    before = [(lg.level, list(lg.handlers), lg.propagate) for lg in loggers]
    known = [
        lg for lg in logging.root.manager.loggerDict.values() if isinstance(lg, logging.Logger)
    ]
    enabled = [lg for lg in known if not lg.disabled]
    yield
    logging.captureWarnings(False)
    for lg in enabled:
        lg.disabled = False
    for lg, (level, handlers, propagate) in zip(loggers, before, strict=True):
        for handler in lg.handlers:
            handler.close()
        lg.handlers[:] = handlers
        lg.setLevel(level)
        lg.propagate = propagate


def test_console_shows_records_from_the_level_up(capsys: pytest.CaptureFixture[str]):
    """INFO records appear once on standard error in the plain format; DEBUG ones do not."""
    agl_logging.setup("INFO", color=False)
    agl_logging.setup("INFO", color=False)
    logging.getLogger("agentlightning.store").info("shown")
    logging.getLogger("agentlightning.store").debug("hidden")
    errors = capsys.readouterr().err
    assert errors.count("shown") == 1
    assert "[INFO] (Process-" in errors
    assert "hidden" not in errors


def test_rich_console_keeps_long_lines_whole_without_a_terminal(
    capsys: pytest.CaptureFixture[str],
):
    """A record of 100 characters stays on one line in a log file made from standard error."""
    agl_logging.setup()
    logging.getLogger("agentlightning").info("x" * 100)
    assert "x" * 100 in capsys.readouterr().err


def test_submodule_may_be_more_verbose(capsys: pytest.CaptureFixture[str]):
    """A submodule's own level lets its debug records through, and only its."""
    agl_logging.setup("WARNING", color=False, submodule_levels={"agentlightning.store": "DEBUG"})
    logging.getLogger("agentlightning.store").debug("detail")
    logging.getLogger("agentlightning.runner").info("noise")
    errors = capsys.readouterr().err
    assert "detail" in errors
    assert "noise" not in errors


def test_files_receive_records(tmp_path: Path):
    """One path serves all loggers; a mapping gives each logger its own file."""
    agl_logging.setup(console=False, files=str(tmp_path / "logs" / "all.log"), apply_to=["other"])
    logging.getLogger("agentlightning").warning("first")
    logging.getLogger("other").warning("second")
    assert (tmp_path / "logs" / "all.log").read_text().count("\n") == 2
    agl_logging.setup(console=False, files={"agentlightning.store": str(tmp_path / "store.log")})
    logging.getLogger("agentlightning.store").warning("third")
    assert "third" in (tmp_path / "store.log").read_text()
    assert "third" not in (tmp_path / "logs" / "all.log").read_text()


def test_warnings_are_logged_on_request(capsys: pytest.CaptureFixture[str]):
    """`warnings.warn` ends up in the same place as the log."""
    agl_logging.setup(color=False, capture_warnings=True)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("watch out", stacklevel=1)
    assert "watch out" in capsys.readouterr().err


def test_extra_handler_keeps_its_level():
    """A handler given by the program is added as it is, with a format if it had none."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Keep(logging.ERROR)
    agl_logging.setup(console=False, extra_handlers=[handler])
    logging.getLogger("agentlightning").warning("below")
    logging.getLogger("agentlightning").error("kept")
    assert [record.getMessage() for record in records] == ["kept"]
    assert handler.formatter is not None


def test_other_loggers_can_be_silenced():
    """`disable_existing_loggers` turns off what is not set up here."""
    other = logging.getLogger("silenced")
    agl_logging.setup(console=False, disable_existing_loggers=True)
    assert other.disabled
    assert not logging.getLogger("agentlightning.store").disabled


def test_single_logger_is_returned():
    """`setup_module` and `configure_logger` return the logger they set up."""
    assert agl_logging.setup_module("DEBUG", name="other", color=False).level == logging.DEBUG
    assert agl_logging.configure_logger(logging.WARNING, "other").level == logging.WARNING
    assert len(logging.getLogger("other").handlers) == 1
