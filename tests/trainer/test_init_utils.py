"""Component specifications of every form."""

import pytest

from agentlightning.errors import ComponentNotFoundError, ConfigurationError
from agentlightning.trainer.init_utils import build_component, instantiate_component, load_class


class Base:
    """What is asked for."""

    def __init__(self, size: int = 1, *, store: object = None) -> None:
        self.size, self.store = size, store


class Other(Base):
    """Another of its kind."""


def make_other():
    """A factory."""
    return Other()


HERE = f"{__name__}.Other"


def build(spec, **options):
    return build_component(spec, expected_type=Base, spec_name="base", **options)


def test_an_instance_is_used_as_it_is():
    """An instance comes back unchanged."""
    instance = Other()
    assert build(instance) is instance


@pytest.mark.parametrize("spec", [Other, make_other, HERE, {"type": HERE}, "other"])
def test_every_form_of_specification_builds_the_component(spec):
    """Class, factory, dotted path, dict and short name give an instance."""
    assert type(build(spec, registry={"other": HERE})) is Other


def test_arguments_come_from_the_dict_and_from_defaults():
    """Dict arguments win over optional defaults, which fill only what the constructor takes."""
    made = build(
        {"type": HERE, "size": 5},
        optional_defaults={"size": 7, "store": lambda: "s", "unknown": 1},
    )
    assert (made.size, made.store) == (5, "s")


def test_a_dict_may_name_a_registered_component():
    """`name` is looked up in the registry; it stays an argument where it is not in there."""
    assert type(build({"name": "other"}, registry={"other": HERE})) is Other


def test_a_dict_without_type_uses_the_default_class():
    """Where a dict need not name its type, the default class is built from it."""
    made = build({"size": 3}, dict_requires_type=False, dict_default_cls=Other)
    assert (type(made), made.size) == (Other, 3)
    with pytest.raises(ConfigurationError, match="'type'"):
        build({"size": 3})


def test_none_means_the_default():
    """None gives the default, None where that is allowed, else an error."""
    assert type(build(None, default_factory=Other)) is Other
    assert build(None, allow_none=True) is None
    with pytest.raises(ConfigurationError, match="must be given"):
        build(None)


def test_wrong_types_are_refused():
    """A component of another type is a TypeError; a spec that makes no sense a ValueError."""
    with pytest.raises(TypeError, match="must be a Base, not a dict"):
        build(dict)
    with pytest.raises(ValueError, match="from a <class 'int'>"):
        build(3)


@pytest.mark.parametrize("path", ["nodots", "no.such.Thing", "agentlightning.errors.Nope"])
def test_names_that_lead_nowhere_are_errors(path):
    """An unknown name says what was looked for."""
    with pytest.raises(ComponentNotFoundError, match=path.rsplit(".", maxsplit=1)[-1]):
        instantiate_component(lambda: build(path))


def test_an_import_error_inside_a_module_is_not_hidden(tmp_path, monkeypatch):
    """A module that exists but cannot be imported shows its own error."""
    (tmp_path / "broken_component.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        load_class("broken_component.Thing")
