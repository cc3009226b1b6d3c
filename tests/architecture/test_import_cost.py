"""Importing is free: `import agentlightning` loads nothing heavy and stays small."""

import json
import subprocess
import sys

import pytest

HEAVY = (
    "aiohttp", "fastapi", "grpc", "jinja2", "litellm", "numpy", "openai", "opentelemetry.sdk",
    "peft", "requests", "rich", "safetensors", "sqlalchemy", "starlette", "torch",
    "transformers", "uvicorn",
)  # fmt: skip
MAX_MODULES = 250
MAX_RESIDENT_MIB = 60

PROBE = """
import importlib, json, sys
before = len(sys.modules)
importlib.import_module(sys.argv[1])
modules = sorted(sys.modules)
import psutil
mebibytes = psutil.Process().memory_info().rss / 2**20
print(json.dumps({"modules": modules, "added": len(modules) - before, "mebibytes": mebibytes}))
"""


def probe(module: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, module],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", ["agentlightning", "agent_lightning"])
def test_root_import_is_light(module: str):
    """The package alone loads no heavy library, few modules, and little memory."""
    cost = probe(module)
    assert [name for name in HEAVY if name in cost["modules"]] == []
    assert cost["added"] <= MAX_MODULES
    assert cost["mebibytes"] <= MAX_RESIDENT_MIB


LEARNING_DOORS = ("torch", "transformers", "peft", "safetensors")


@pytest.mark.parametrize(
    ("module", "doors"),
    [
        ("agentlightning.types", ("aiohttp", "fastapi", "numpy", "sqlalchemy", *LEARNING_DOORS)),
        ("agentlightning.store.base", ("aiohttp", "fastapi", "sqlalchemy", *LEARNING_DOORS)),
        ("agentlightning.store.memory", ("fastapi", "sqlalchemy", "uvicorn", *LEARNING_DOORS)),
        ("agentlightning.client", ("aiohttp", "fastapi", "uvicorn", *LEARNING_DOORS)),
        ("agentlightning.logging", ("rich", *LEARNING_DOORS)),
        ("agentlightning.utils.metrics", ("prometheus_client", *LEARNING_DOORS)),
        ("agentlightning.runner", ("fastapi", "sqlalchemy", *LEARNING_DOORS)),
        ("agentlightning.trainer", ("sqlalchemy", *LEARNING_DOORS)),
        ("agentlightning.algorithm", LEARNING_DOORS),
        ("agentlightning.llm_proxy", ("sqlalchemy", "litellm", *LEARNING_DOORS)),
    ],
)
def test_rooms_keep_heavy_libraries_behind_their_doors(module: str, doors: tuple[str, ...]):
    """A room loads a heavy library when it is used, not when it is imported."""
    loaded = probe(module)["modules"]
    assert [name for name in doors if name in loaded] == []
