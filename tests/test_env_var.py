"""Typed reading of the environment variables of 0.3.0."""

import pytest

from agentlightning.env_var import (
    LightningEnvVar,
    resolve_bool_env_var,
    resolve_int_env_var,
    resolve_str_env_var,
)

MANAGED = LightningEnvVar.AGL_MANAGED_STORE
PORT = LightningEnvVar.AGL_SERVER_PORT
HOST = LightningEnvVar.AGL_SERVER_HOST


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in LightningEnvVar:
        monkeypatch.delenv(variable.value, raising=False)


def test_fallback_is_used_without_the_variable():
    """Nothing set gives the fallback, which may be None."""
    assert resolve_bool_env_var(MANAGED) is None
    assert resolve_bool_env_var(MANAGED, fallback=True) is True
    assert resolve_int_env_var(PORT, fallback=4747) == 4747
    assert resolve_str_env_var(HOST, fallback="localhost") == "localhost"


@pytest.mark.parametrize("word", ["1", "true", "YES", " on "])
def test_words_for_yes(monkeypatch: pytest.MonkeyPatch, word: str):
    """Case and surrounding blanks do not matter."""
    monkeypatch.setenv(MANAGED.value, word)
    assert resolve_bool_env_var(MANAGED, fallback=False) is True


@pytest.mark.parametrize("word", ["0", "false", "No", "off"])
def test_words_for_no(monkeypatch: pytest.MonkeyPatch, word: str):
    """The variable beats the fallback, also when it says no."""
    monkeypatch.setenv(MANAGED.value, word)
    assert resolve_bool_env_var(MANAGED, fallback=True) is False


def test_argument_beats_the_variable(monkeypatch: pytest.MonkeyPatch):
    """What the caller says wins, also a no and a zero."""
    monkeypatch.setenv(MANAGED.value, "yes")
    monkeypatch.setenv(PORT.value, "1")
    monkeypatch.setenv(HOST.value, "a")
    assert resolve_bool_env_var(MANAGED, override=False) is False
    assert resolve_int_env_var(PORT, override=0) == 0
    assert resolve_str_env_var(HOST, override="") == ""


def test_values_that_do_not_parse_name_the_variable(monkeypatch: pytest.MonkeyPatch):
    """The error says which variable is wrong."""
    monkeypatch.setenv(MANAGED.value, "maybe")
    monkeypatch.setenv(PORT.value, "4747x")
    with pytest.raises(ValueError, match="AGL_MANAGED_STORE='maybe'"):
        resolve_bool_env_var(MANAGED)
    with pytest.raises(ValueError, match="AGL_SERVER_PORT"):
        resolve_int_env_var(PORT)
