"""The store's HTTP application: every route, the guard, CORS and the API description.

It serves; who starts it, and in which thread or process, is `server`'s business.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from agentlightning._internal.version import __version__
from agentlightning.store.base import LightningStore
from agentlightning.store.http import (
    routes_events,
    routes_otlp,
    routes_queue,
    routes_resources,
    routes_rollouts,
    routes_spans,
    routes_upkeep,
)
from agentlightning.store.http.api_page import render_api
from agentlightning.store.http.front import Front
from agentlightning.store.http.guard import Guard
from agentlightning.store.http.metering import Metering
from agentlightning.store.http.openapi import describe_api
from agentlightning.store.http.operation import API_PREFIX, Endpoint, Operation
from agentlightning.store.http.routing import RouteTable
from agentlightning.store.http.site import DEFAULT_BODY_LIMIT, Site

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from agentlightning.utils.metrics import MetricsBackend

__all__ = ["OPERATIONS", "StoreApp", "StoreAppFactory"]

TITLE: Final = "Agent Lightning store"
TRACES_PATH: Final = "/v1/traces"

OPERATIONS: Final[tuple[Operation, ...]] = (
    *routes_spans.OPERATIONS,
    *routes_queue.OPERATIONS,
    *routes_rollouts.OPERATIONS,
    *routes_events.OPERATIONS,
    *routes_resources.OPERATIONS,
    *routes_upkeep.OPERATIONS,
)

_CORS: Final[dict[str, Any]] = {
    "allow_credentials": True,
    "allow_methods": ["*"],
    "allow_headers": ["*"],
    "expose_headers": ["*"],
}

_PAGE: Final = f"""<!doctype html>
<title>{TITLE}</title>
<h1>{TITLE}</h1>
<p>This is the API of a store. Its routes are under <code>{API_PREFIX}</code> and are described in
<a href="/docs">/docs</a> and in <a href="/openapi.json">/openapi.json</a>; it takes OpenTelemetry traces at
<code>{TRACES_PATH}</code>.
"""


class StoreApp:
    """An ASGI application around one store; `app` is the FastAPI object, open to more routes.

    Args:
        store: The store, safe to call from the server's loop.
        token: Bearer token that callers must send; None for no authentication.
        cors_allow_origins: Origins whose pages may call; `*` allows all.
        body_limit: Largest accepted body in bytes.
        tracker: Where requests are counted; one that Prometheus can scrape adds a route for it.
        run_id: Clients that name another run are refused.
        check_host: Refuse requests for public host names; see `Guard`.
    """

    def __init__(
        self,
        store: LightningStore,
        *,
        token: str | None = None,
        cors_allow_origins: str | Sequence[str] | None = None,
        body_limit: int = DEFAULT_BODY_LIMIT,
        tracker: MetricsBackend | None = None,
        run_id: str | None = None,
        check_host: bool = False,
    ) -> None:
        origins = (
            [cors_allow_origins]
            if isinstance(cors_allow_origins, str)
            else [*(cors_allow_origins or ())]
        )
        self.site = Site(store, body_limit=body_limit, tracker=tracker)
        routes = RouteTable()
        self.app = _make_fastapi(self.site, routes)
        guard = Guard(token=token, allowed_origins=origins, run_id=run_id, check_host=check_host)
        layers: list[tuple[Any, dict[str, Any]]] = [(Front, {"guard": guard, "routes": routes})]
        if tracker is not None:
            Metering.register(tracker)
            layers.append((Metering, {"tracker": tracker}))
            if tracker.has_prometheus():
                _add_prometheus(self.app)
        if origins:
            layers.append((CORSMiddleware, {**_CORS, "allow_origins": origins}))
        # Perf: FastAPI's own layers take as long as ours, so requests meet ours first. They are
        # there a second time for those who use the FastAPI object, and let pass what they know.
        self._entrance: ASGIApp = self.app
        for layer, arguments in layers:
            self.app.add_middleware(layer, **arguments)
            self._entrance = layer(self._entrance, **arguments)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event, as ASGI says."""
        await self._entrance(scope, receive, send)

    def before_shutdown(self) -> None:
        """End long polls and event streams, so that the server can stop."""
        self.site.begin_closing()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAppFactory:
    """Makes the application in another process; the store must be picklable."""

    store: LightningStore
    token: str | None
    cors_allow_origins: str | Sequence[str] | None
    body_limit: int = DEFAULT_BODY_LIMIT
    run_id: str | None = None
    check_host: bool = False
    is_app_factory: Literal[True] = True

    def __call__(self) -> StoreApp:
        """Return a new application."""
        return StoreApp(
            self.store,
            token=self.token,
            cors_allow_origins=self.cors_allow_origins,
            body_limit=self.body_limit,
            run_id=self.run_id,
            check_host=self.check_host,
        )


def _make_fastapi(site: Site, routes: RouteTable) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        site.open()
        yield
        await site.drain()

    app = FastAPI(
        title=TITLE,
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        # FastAPI's documentation pages load scripts from the internet.
        docs_url=None,
        redoc_url=None,
    )
    for operation in OPERATIONS:
        _add_route(app, routes, site, operation, API_PREFIX + operation.path)
    for path, handler, refuse in (
        (TRACES_PATH, routes_otlp.take_traces, routes_otlp.refuse_export),
        *((path, routes_otlp.refuse_signal, None) for path in routes_otlp.UNSUPPORTED_SIGNALS),
    ):
        signal = Operation(
            method="POST",
            path=path,
            handler=handler,
            summary="Take OTLP",
            returns=bytes,
            refuse=refuse,
        )
        _add_route(app, routes, site, signal, path)
    app.router.routes.append(Route("/", _front_page))
    app.add_exception_handler(HTTPException, _refuse)
    described: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not described:
            described.update(describe_api(OPERATIONS, title=TITLE, version=app.version))
        return described

    async def docs(_: Request) -> HTMLResponse:
        return HTMLResponse(render_api(openapi()))

    app.router.routes.append(Route("/docs", docs))
    app.openapi = openapi
    return app


def _add_route(
    app: FastAPI, routes: RouteTable, site: Site, operation: Operation, path: str
) -> None:
    endpoint = Endpoint(site, operation, path)
    routes.add(operation.method, path, endpoint)
    # The application lists the route too, and answers what comes with another method.
    app.router.routes.append(Route(path, endpoint, methods=[operation.method]))


def _add_prometheus(app: FastAPI) -> None:
    from prometheus_client import make_asgi_app

    from agentlightning.utils.metrics import get_prometheus_registry

    app.mount("/v1/prometheus", make_asgi_app(registry=get_prometheus_registry()))


async def _front_page(_: Request) -> HTMLResponse:
    return HTMLResponse(_PAGE)


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    """Answer what no route takes in the shape of every other error."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = {404: "no_route", 405: "method_not_allowed"}.get(status, "http_error")
    headers = error.headers if isinstance(error, HTTPException) else None
    detail = f"There is no {request.method} {request.url.path} here."
    body = {"detail": detail, "code": code, "request_id": request.scope.get("agl.request_id")}
    return JSONResponse(body, status, headers=headers)
