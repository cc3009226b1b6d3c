"""Settings of the machine and the user."""

from pathlib import Path

import pytest

from agentlightning.settings import (
    Settings,
    agent_environment,
    ensure_prometheus_dir,
    prometheus_dir,
)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("AGL_CACHE_DIR", "AGL_RUNS_DIR", "AGL_STORE_URL", "AGL_OFFLINE", "XDG_CACHE_HOME")
    for name in names:
        monkeypatch.delenv(name, raising=False)


def test_defaults():
    """Without variables: the user's cache, `./runs`, and downloads allowed."""
    settings = Settings.from_environment()
    assert settings.cache_dir == Path("~/.cache/agentlightning").expanduser()
    assert settings.runs_dir == Path("runs")
    assert settings.store_url is None
    assert not settings.offline


def test_variables_move_directories(monkeypatch: pytest.MonkeyPatch):
    """Our variable beats the desktop's, and `~` is expanded."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert Settings.from_environment().cache_dir == Path("/cache/agentlightning")
    monkeypatch.setenv("AGL_CACHE_DIR", "~/models")
    monkeypatch.setenv("AGL_RUNS_DIR", "/runs")
    monkeypatch.setenv("AGL_STORE_URL", "http://store:4747")
    assert Settings.from_environment().store_url == "http://store:4747"
    settings = Settings.from_environment()
    assert settings.cache_dir == Path("~/models").expanduser()
    assert settings.runs_dir == Path("/runs")


@pytest.mark.parametrize(("value", "offline"), [("", False), ("0", False), ("1", True)])
def test_offline_is_on_for_anything_but_nothing_and_zero(
    monkeypatch: pytest.MonkeyPatch, value: str, offline: bool
):
    """An empty string and 0 are no."""
    monkeypatch.setenv("AGL_OFFLINE", value)
    assert Settings.from_environment().offline is offline


def test_environment_for_a_child_is_a_copy(monkeypatch: pytest.MonkeyPatch):
    """Changing the copy does not change this process."""
    monkeypatch.setenv("AGL_TEST_COPY", "before")
    copy = agent_environment()
    copy["AGL_TEST_COPY"] = "after"
    assert agent_environment()["AGL_TEST_COPY"] == "before"


def test_metrics_directory_is_made_where_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A named directory is created; an empty variable names none."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    assert prometheus_dir() is None
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "shared"))
    assert ensure_prometheus_dir() == str(tmp_path / "shared") == prometheus_dir()
    assert (tmp_path / "shared").is_dir()
