"""Who may call: the bearer token, and web pages of other sites.

There is one token for everything a server offers. Without one every caller on the bound
interface is trusted, which is why a public bind needs one.
"""

from __future__ import annotations

import functools
import hmac
import ipaddress
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import urlsplit

from agentlightning.errors import UnauthorizedError
from agentlightning.store.http.errors import WireError
from agentlightning.store.http.operation import API_PREFIX, RUN_ID_HEADER

__all__ = ["Guard", "tokens_match"]

OPEN_PATHS: Final = frozenset({"/", f"{API_PREFIX}/health"})
"""Paths that need no token; they tell nothing but that a server is there."""

_RUN_ID: Final = RUN_ID_HEADER.encode()


def tokens_match(given: bytes, expected: str) -> bool:
    """Compare a received secret in a time that does not depend on where it differs."""
    return hmac.compare_digest(given, expected.encode())


class Guard:
    """Says which requests may go on.

    Args:
        token: The bearer token, or None for no authentication.
        allowed_origins: Origins of other sites whose pages may call; `*` allows all.
        run_id: The run that is served; clients that name another one are at the wrong server.
        check_host: Refuse requests that were sent to a name of the public internet, which is how
            a page reaches a server on loopback by letting its own name resolve to that (DNS
            rebinding).
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        allowed_origins: Collection[str] = (),
        run_id: str | None = None,
        check_host: bool = False,
    ) -> None:
        self._token = token
        self._origins = frozenset(allowed_origins)
        self._run_id = None if run_id is None else run_id.encode()
        self._check_host = check_host

    def check(self, headers: Mapping[bytes, bytes], path: str) -> None:
        """Return if the request may go on.

        Raises:
            UnauthorizedError: The token is wrong or missing.
            WireError: A page of another site called, or a client of another run.
        """
        host = headers.get(b"host", b"")
        if self._check_host and not _is_local_name(host):
            name = host.decode("latin-1")
            raise WireError(
                f"This store serves its own machine, not {name}: use http://127.0.0.1, or serve "
                "with a token.",
                status=403,
                wire_code="forbidden_host",
            )
        origin = headers.get(b"origin")
        # Why: without this, any page that a user opens could post to a store on localhost.
        if origin is not None and not self._is_allowed(
            origin.decode("latin-1"), host.decode("latin-1")
        ):
            raise WireError(
                f"Pages of {origin.decode('latin-1')} may not call this store: allow the origin "
                "for CORS.",
                status=403,
                wire_code="forbidden_origin",
            )
        if path in OPEN_PATHS:
            return
        if self._token is not None:
            self._check_token(headers.get(b"authorization", b""), self._token)
        named = headers.get(_RUN_ID)
        if named is not None and self._run_id is not None and named != self._run_id:
            raise WireError(
                f"This store belongs to run {self._run_id.decode()!r}, not to "
                f"{named.decode('latin-1')!r}: check the address.",
                status=409,
                wire_code="wrong_run",
            )

    def _check_token(self, header: bytes, token: str) -> None:
        scheme, _, given = header.partition(b" ")
        if scheme.lower() != b"bearer" or not tokens_match(given.strip(), token):
            raise UnauthorizedError("A valid token is needed: send Authorization: Bearer <token>.")

    def _is_allowed(self, origin: str, host: str) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        return urlsplit(origin).netloc == host


@functools.lru_cache(maxsize=256)
def _is_local_name(header: bytes) -> bool:
    """Return whether a Host header names no domain of the public internet.

    Addresses cannot be rebound, and names without a dot are not in the public DNS.
    """
    host = header.decode("latin-1")
    name = host.rpartition(":")[0] if host[-1:].isdigit() and ":" in host else host
    if "." not in name or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
