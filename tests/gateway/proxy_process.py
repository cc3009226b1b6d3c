"""What tests give to a proxy's processes: middlewares that can be imported there."""

from typing import Any

from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response


class Stamp(BaseHTTPMiddleware):
    """Stamps each answer."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-stamp"] = "seen"
        return response


class Broken:
    """Cannot be made."""

    def __init__(self, app: Any) -> None:
        raise ValueError("broken on purpose")
