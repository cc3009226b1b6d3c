"""Tests of the table between error classes, statuses and codes."""

import logging
import pickle

import pytest
from pydantic import BaseModel, ValidationError

from agentlightning.errors import (
    ConflictError,
    InvalidRequestError,
    InvalidTransitionError,
    NotFoundError,
    StoreError,
    StoreUnavailableError,
    UnauthorizedError,
)
from agentlightning.store.http.errors import (
    UnprocessableError,
    WireError,
    error_from_wire,
    error_to_wire,
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFoundError("a"), 404),
        (InvalidTransitionError("b"), 409),
        (ConflictError("c"), 409),
        (InvalidRequestError("d"), 400),
        (UnauthorizedError("e"), 401),
        (StoreUnavailableError("f"), 503),
        (NotImplementedError("g"), 501),
    ],
)
def test_errors_come_back_as_they_went(error: Exception, status: int):
    """The client raises the class that the store raised, with its message."""
    sent_status, body = error_to_wire(error)
    assert sent_status == status
    back = error_from_wire(sent_status, body)
    assert type(back) is type(error)
    assert str(back) == str(error)


def test_internals_stay_in_the_log(caplog: pytest.LogCaptureFixture):
    """An unexpected error shows an id and nothing else; the log holds its trace."""
    with caplog.at_level(logging.ERROR):
        status, body = error_to_wire(KeyError("secret"))
    assert status == 500
    assert body["code"] == "internal_error"
    assert "secret" not in str(body)
    assert "secret" in caplog.text
    back = error_from_wire(status, body)
    assert type(back) is StoreError
    assert body["error_id"] in str(back)


def test_value_errors_of_foreign_stores_are_the_callers():
    """A plain ValueError, as 0.3.0's stores raise, is an invalid request and not a crash."""
    status, body = error_to_wire(ValueError("Rollout not found"))
    assert (status, body["code"], body["detail"]) == (400, "invalid_request", "Rollout not found")


def test_validation_says_where_without_values():
    """What pydantic refuses is told by field, without the input, and shortened."""

    class Many(BaseModel):
        numbers: list[int]

    with pytest.raises(ValidationError) as caught:
        Many.model_validate({"numbers": ["password"] * 8})
    status, body = error_to_wire(caught.value)
    assert (status, body["code"]) == (422, "unprocessable")
    assert "numbers.0:" in body["detail"]
    assert body["detail"].endswith("and 3 more")
    assert "password" not in body["detail"]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (502, None, StoreUnavailableError),
        (504, "gateway timeout", StoreUnavailableError),
        (404, {"detail": "?"}, NotFoundError),
        (404, {"detail": "?", "code": "no_route"}, StoreError),
        (418, {}, InvalidRequestError),
        (500, [], StoreError),
    ],
)
def test_foreign_answers_become_errors_of_ours(status: int, body: object, kind: type[Exception]):
    """Answers of proxies and of older servers are told apart by their status."""
    assert type(error_from_wire(status, body)) is kind


def test_wire_errors_can_be_pickled():
    """Errors with a status of their own travel between processes."""
    teapot = pickle.loads(pickle.dumps(WireError("short", status=418, wire_code="teapot")))
    assert (str(teapot), teapot.status, teapot.wire_code) == ("short", 418, "teapot")
    assert pickle.loads(pickle.dumps(UnprocessableError("x"))).status == 422
