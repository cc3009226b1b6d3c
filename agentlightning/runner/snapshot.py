"""What a worker tells about its machine with each heartbeat."""

from __future__ import annotations

import platform
import shutil
import socket
import subprocess
from typing import Any

import psutil

from agentlightning._internal.clock import now

__all__ = ["system_snapshot"]

_GB = 2**30
_MB = 2**20
_GPU_FIELDS = "name,utilization.gpu,memory.used,memory.total,temperature.gpu"
_GPU_KEYS = ("util_pct", "mem_used_mb", "mem_total_mb", "temp_c")
_GPU_QUERY_SECONDS = 5.0


def system_snapshot(include_gpu: bool = False) -> dict[str, Any]:
    """Return load and sizes of this machine; blocks for a few milliseconds, more with GPUs.

    Args:
        include_gpu: Also ask `nvidia-smi`, if it is installed.
    """
    memory, disk, network = psutil.virtual_memory(), psutil.disk_usage("/"), _network_bytes()
    snapshot: dict[str, Any] = {
        "timestamp": now(),
        "host": socket.gethostname(),
        "os": platform.platform(),
        "cpu_name": platform.processor() or platform.machine(),
        "cpu_cores": psutil.cpu_count(logical=False),
        "cpu_threads": psutil.cpu_count(),
        "cpu_usage_pct": psutil.cpu_percent(),
        "mem_used_gb": round(memory.used / _GB, 2),
        "mem_total_gb": round(memory.total / _GB, 2),
        "mem_pct": memory.percent,
        "disk_used_gb": round(disk.used / _GB, 2),
        "disk_total_gb": round(disk.total / _GB, 2),
        "disk_pct": disk.percent,
        "bytes_sent_mb": round(network[0] / _MB, 2),
        "bytes_recv_mb": round(network[1] / _MB, 2),
    }
    if include_gpu:
        snapshot["gpus"] = _gpus()
    return snapshot


def _network_bytes() -> tuple[int, int]:
    counters = psutil.net_io_counters()
    # A container without network interfaces has no counters.
    return (counters.bytes_sent, counters.bytes_recv) if counters else (0, 0)


def _gpus() -> list[dict[str, Any]]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    answer = subprocess.run(
        [tool, f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        timeout=_GPU_QUERY_SECONDS,
        check=False,
    )
    rows = [[part.strip() for part in line.split(",")] for line in answer.stdout.splitlines()]
    return [
        {"gpu": row[0], **{key: _number(v) for key, v in zip(_GPU_KEYS, row[1:], strict=True)}}
        for row in rows
        if len(row) == len(_GPU_KEYS) + 1
    ]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
