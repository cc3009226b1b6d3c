"""Command-line options made from constructors."""

import sys

import pytest

from agentlightning.config import lightning_cli


class Model:
    def __init__(
        self,
        size: int,
        *names: str,
        layer_count: int | None = None,
        name: str | None = "m",
        rate: float = 0.5,
        fast: bool = False,
        parts: list[int] = [1],  # noqa: B006 - a default of the kind the parser must show.
        mixed: int | str = "a",
        **rest: str,
    ):
        self.values = (size, layer_count, name, rate, fast, parts, mixed)


class Data:
    def __init__(self, path: str):
        self.path = path


def parse(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["program", *arguments])


def test_defaults_fill_what_is_not_given(monkeypatch: pytest.MonkeyPatch):
    """Only parameters without a default must be given."""
    parse(monkeypatch, "--model.size", "3")
    assert lightning_cli(Model).values == (3, None, "m", 0.5, False, [1], "a")


def test_values_are_converted_by_type(monkeypatch: pytest.MonkeyPatch):
    """Numbers, booleans, lists and words for nothing arrive as Python values."""
    parse(
        monkeypatch,
        *("--model.size", "3", "--model.layer-count", "NIL", "--model.name", "null"),
        *("--model.rate", "1e-3", "--model.fast", "Yes", "--model.parts", "4", "5"),
        *("--model.mixed", "7"),
    )
    assert lightning_cli(Model).values == (3, None, None, 1e-3, True, [4, 5], "7")


def test_several_classes_give_a_tuple(monkeypatch: pytest.MonkeyPatch):
    """Each class has its own prefix, and the objects come in order."""
    parse(monkeypatch, "--data.path", "none", "--model.size", "1")
    model, data = lightning_cli(Model, Data)
    assert model.values[0] == 1
    assert data.path == "none"


@pytest.mark.parametrize(
    "arguments",
    [[], ["--model.size", "x"], ["--model.size", "1", "--model.fast", "maybe"]],
)
def test_bad_command_line_ends_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
):
    """Missing and malformed values end with usage and status 2."""
    parse(monkeypatch, *arguments)
    with pytest.raises(SystemExit) as ended:
        lightning_cli(Model)
    assert ended.value.code == 2
    assert "--model." in capsys.readouterr().err


def test_help_lists_every_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """`--help` names the options of all classes and their defaults."""
    parse(monkeypatch, "--help")
    with pytest.raises(SystemExit):
        lightning_cli(Model, Data)
    text = capsys.readouterr().out
    assert "--model.layer-count" in text
    assert "--data.path" in text
    assert "0.5" in text
