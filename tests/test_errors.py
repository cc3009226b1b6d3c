"""The error tree: what each error also is, and what it carries."""

import pickle

import pytest

from agentlightning import errors
from agentlightning.errors import (
    AgentLightningError,
    ContextLengthError,
    MissingExtraError,
    RequestError,
)

ALL = [
    item
    for item in vars(errors).values()
    if isinstance(item, type) and issubclass(item, AgentLightningError)
]


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ConfigurationError", ValueError),
        ("ComponentNotFoundError", ValueError),
        ("MissingExtraError", ImportError),
        ("StoreError", RuntimeError),
        ("NotFoundError", ValueError),
        ("InvalidTransitionError", ValueError),
        ("ConflictError", ValueError),
        ("StoreUnavailableError", ConnectionError),
        ("AgentTimeoutError", TimeoutError),
        ("RewardError", ValueError),
        ("TracerError", RuntimeError),
    ],
)
def test_error_is_also_what_0_3_0_raised(name: str, builtin: type[Exception]):
    """Programs that catch the builtin catch ours."""
    assert issubclass(getattr(errors, name), builtin)


def test_codes_name_one_error_each():
    """A code on the wire means one class."""
    own_codes = [item.code for item in ALL if "code" in vars(item)]
    assert len(own_codes) == len(set(own_codes))


@pytest.mark.parametrize("error_class", ALL, ids=[item.__name__ for item in ALL])
def test_errors_cross_process_borders(error_class: type[AgentLightningError]):
    """Every error survives pickling with its class and message."""
    arguments = ("torch", "rl") if error_class is MissingExtraError else ("what was wrong",)
    error = error_class(*arguments)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is error_class
    assert str(copy) == str(error)


def test_missing_extra_says_what_to_install():
    """The message is the command to run."""
    assert "pip install 'agentlightning[rl]'" in str(MissingExtraError("torch", "rl"))


def test_request_errors_have_openais_shape():
    """Clients find the code and parameter where OpenAI puts them."""
    body = ContextLengthError("too long").to_body()["error"]
    assert body["code"] == "context_length_exceeded"
    assert body["param"] == "messages"
    assert RequestError("no", status=429, error_type="rate_limit").status == 429
