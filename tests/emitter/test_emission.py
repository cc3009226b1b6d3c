"""Emitters are light to import."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
import agentlightning.emitter
import agentlightning.tracer
import agentlightning.adapter
import agentlightning.reward
heavy = {"opentelemetry", "numpy", "torch", "openai", "fastapi", "aiohttp", "sqlalchemy"}
print(sorted(heavy & {name.split(".")[0] for name in sys.modules}))
assert agentlightning.emitter.reward.__name__ == "reward" and callable(agentlightning.emitter.reward)
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from agentlightning.reward import emit_reward
print(len(caught), emit_reward is agentlightning.emitter.emit_reward)
"""


def test_imports_load_nothing_heavy():
    """Emitters, tracers and adapters load no OpenTelemetry; the old module warns when used."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["[]", "1 True"]
