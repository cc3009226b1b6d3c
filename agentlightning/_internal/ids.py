"""Identifiers: how every id is made, and which ones can be derived instead of carried."""

import hashlib
import os
import uuid


def generate_id(length: int) -> str:
    """Return `length` random hexadecimal characters (at most 40)."""
    return os.urandom(20).hex()[:length]


def new_rollout_id() -> str:
    """Return a fresh rollout id, `ro-` and 12 hex characters."""
    return "ro-" + generate_id(12)


def new_attempt_id() -> str:
    """Return a fresh attempt id, `at-` and 8 hex characters."""
    return "at-" + generate_id(8)


def new_resources_id() -> str:
    """Return a fresh resources id, `rs-` and 12 hex characters."""
    return "rs-" + generate_id(12)


def new_call_id() -> str:
    """Return a fresh model-call id, `ca-` and 16 hex characters."""
    return "ca-" + generate_id(16)


def new_trace_id() -> str:
    """Return a random OpenTelemetry trace id, 32 hex characters."""
    return uuid.uuid4().hex


def new_span_id() -> str:
    """Return a random OpenTelemetry span id, 16 hex characters."""
    return os.urandom(8).hex()


def attempt_trace_id(rollout_id: str, attempt_id: str) -> str:
    """Return the trace id that every span of one attempt shares, 32 hex characters.

    It is a pure function of the two ids, so the runner and the gateway, which may live in
    different processes, agree on it without exchanging anything.

    Example:
        >>> attempt_trace_id("ro-1", "at-1") == attempt_trace_id("ro-1", "at-1")
        True
    """
    return hashlib.sha256(f"{rollout_id}/{attempt_id}".encode()).hexdigest()[:32]
