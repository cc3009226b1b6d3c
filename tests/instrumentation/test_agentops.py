"""AgentOps reaches its own service only after that was allowed."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from aiohttp import web

from agentlightning.settings import agent_environment

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio
import agentops
from agentlightning.instrumentation.agentops import enable_agentops_service
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.tracer.agentops import AgentOpsTracer

async def main():
    store, tracer = InMemoryLightningStore(), AgentOpsTracer()
    with tracer.lifespan(store):
        for enabled in (False, True):
            enable_agentops_service(enabled)
            while enabled and not agentops.get_client().get_current_jwt():
                await asyncio.sleep(0.02)
            rollout = await store.start_rollout(input=1)
            ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
            async with tracer.trace_context("allowed" if enabled else "private", **ids):
                pass
            assert len(await store.query_spans(**ids)) == 1
    await store.close()

asyncio.run(main())
"""


async def test_nothing_leaves_before_it_is_allowed(tmp_path):
    """Login and spans go out once the service is enabled, and only those since; no file is left."""
    seen: list[tuple[str, bytes]] = []
    tokens: set[str | None] = set()

    async def serve(request: web.BaseRequest) -> web.Response:
        seen.append((request.path, await request.read()))
        if request.path == "/v1/traces":
            tokens.add(request.headers.get("Authorization"))
        return web.json_response({"token": "t", "project_id": "p", "project_prem_status": "free"})

    runner = web.ServerRunner(web.Server(serve))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    variables = {
        "AGENTOPS_API_KEY": "11111111-1111-4111-8111-111111111111",
        "AGENTOPS_API_ENDPOINT": url,
        "AGENTOPS_EXPORTER_ENDPOINT": f"{url}/v1/traces",
        "PYTHONPATH": str(ROOT),
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        env={**agent_environment(), **variables},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )
    _, errors = await child.communicate()
    await runner.cleanup()
    assert child.returncode == 0, errors.decode()
    logins = [json.loads(body) for path, body in seen if path == "/v3/auth/token"]
    assert [login["api_key"] for login in logins] == [variables["AGENTOPS_API_KEY"]]
    spans = b"".join(body for path, body in seen if path == "/v1/traces")
    assert b"allowed.session" in spans
    assert b"private.session" not in spans
    assert tokens == {"Bearer t"}
    assert list(tmp_path.iterdir()) == []
