"""Settings of the machine and the user, read once from the environment.

Components take plain arguments; entry points (`Trainer`, the command line) read `Settings` and
pass values down. Apart from `env_var`, no other module reads the environment.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Settings", "agent_environment", "ensure_prometheus_dir", "prometheus_dir"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where things live on this machine."""

    cache_dir: Path
    """Converted models and other things that can be made again. `AGL_CACHE_DIR`."""

    runs_dir: Path
    """Where run directories are made. `AGL_RUNS_DIR`, default `./runs`."""

    store_url: str | None = None
    """Where scripts record what they do. `AGL_STORE_URL`, default a file in `runs_dir`."""

    vllm_api_key: str | None = None
    """What a vLLM server was started with as `--api-key`. `VLLM_API_KEY`, as for the server."""

    offline: bool = False
    """Refuse every download. `AGL_OFFLINE` set to anything but an empty string or 0."""

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the settings from environment variables, with defaults for what is absent."""
        home_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        cache = os.environ.get("AGL_CACHE_DIR") or f"{home_cache}/agentlightning"
        return cls(
            cache_dir=Path(cache).expanduser(),
            runs_dir=Path(os.environ.get("AGL_RUNS_DIR") or "runs").expanduser(),
            store_url=os.environ.get("AGL_STORE_URL") or None,
            vllm_api_key=os.environ.get("VLLM_API_KEY") or None,
            offline=os.environ.get("AGL_OFFLINE", "") not in {"", "0"},
        )


def agent_environment() -> dict[str, str]:
    """Return a copy of this process's environment, to start a child process with."""
    return dict(os.environ)


def prometheus_dir() -> str | None:
    """Return the directory through which processes share Prometheus figures, if there is one."""
    return os.environ.get("PROMETHEUS_MULTIPROC_DIR") or None


def ensure_prometheus_dir() -> str:
    """Return `prometheus_dir()`, made if need be; child processes inherit it."""
    path = prometheus_dir() or tempfile.mkdtemp(prefix="agl-prometheus-")
    Path(path).mkdir(parents=True, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = path
    return path
