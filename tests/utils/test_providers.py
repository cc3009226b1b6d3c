"""The process's OpenTelemetry provider is found."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
from agentlightning.errors import TracerError
from agentlightning.tracer import OtelTracer
from agentlightning.utils.otel import get_span_processors, get_tracer, get_tracer_provider

try:
    get_tracer_provider()
except TracerError as error:
    print("none:", "lifespan" in str(error))

tracer = OtelTracer()
with tracer.lifespan():
    from agentlightning.tracer.otel import LightningSpanProcessor
    provider = get_tracer_provider()
    print(len(get_span_processors(provider, LightningSpanProcessor)))
    with tracer._trace_context_sync():
        get_tracer().start_span("seen").end()
        get_tracer(use_active_span_processor=False).start_span("unseen").end()
    print([span.name for span in tracer.get_last_trace()])
    with OtelTracer().lifespan():
        print(len(get_span_processors(get_tracer_provider(), LightningSpanProcessor)))
"""


def test_provider_of_a_fresh_process():
    """There is none before a tracer starts; afterwards it is ours, and reached once per span."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["none: True", "1", "['seen']", "1"]
