"""Rules about the source as a whole, each of which a script or ruff cannot say alone."""

import tomllib
from pathlib import Path

import pytest

from scripts import check_mirror, check_size, check_suppressions, figures
from scripts.source import CHECKED, comments, definitions, python_files, relative

BOUNDARIES = tomllib.loads((Path(__file__).parent / "boundaries.toml").read_text())["boundaries"]
FORBIDDEN_FILE_NAMES = {"helpers", "common", "misc", "manager", "managers", "utils2"}


def test_broad_excepts_are_at_listed_boundaries():
    """`except Exception` appears only where the list says, and the list is not stale."""
    assert sorted(figures.broad_handlers()) == sorted(BOUNDARIES)


def test_every_boundary_says_what_it_protects():
    """A boundary without a reason is a bug."""
    assert [place for place, reason in BOUNDARIES.items() if len(reason) < 10] == []


def test_nothing_is_left_to_do():
    """Unfinished work is an issue, not a comment."""
    marks = [
        f"{relative(path)}:{line}"
        for path in python_files(*CHECKED, "tests")
        for line, text in comments(path)
        if any(word in text for word in ("TO" + "DO", "FIX" + "ME", "XX" + "X"))
    ]
    assert marks == []


def test_files_are_named_for_their_subject():
    """A file is one noun; the names for leftovers are not used."""
    files = [path for path in python_files(*CHECKED) if path.stem in FORBIDDEN_FILE_NAMES]
    assert [relative(path) for path in files] == []


def test_every_module_says_what_it_is_for():
    """Every module starts with a docstring."""
    from scripts.source import parsed

    silent = [
        relative(path)
        for path in python_files(*CHECKED)
        if parsed(path).body and not figures.ast.get_docstring(parsed(path))
    ]
    assert silent == []


@pytest.mark.parametrize("check", [check_size, check_suppressions, check_mirror])
def test_check_passes(check, capsys: pytest.CaptureFixture[str]):
    """Sizes, suppressions and test mirroring are as the scripts want them."""
    status = check.main()
    assert status == 0, capsys.readouterr().out


def test_sizes_are_measured_without_docstrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A long docstring does not make a function long, and nested names are dotted."""
    from scripts import source

    monkeypatch.setattr(source, "ROOT", tmp_path)
    path = tmp_path / "sample.py"
    path.write_text(
        'class Outer:\n    """One."""\n\n    def inner(self):\n'
        '        """Two\n\n        more.\n        """\n        return 1\n'
    )
    outer, inner = definitions(path)
    assert (outer.name, outer.lines) == ("Outer", 4)
    assert (inner.name, inner.lines, inner.documented) == ("Outer.inner", 2, True)


def test_size_ratchet_only_turns_one_way():
    """Exceptions that are missing, too generous, unneeded or gone are all reported."""
    key = "scripts/check_size.py"
    size = next(size for _, k, size, _ in check_size.sizes() if k == key)
    assert any("remove the exception" in line for line in check_size.problems({key: size}))
    assert any("not there" in line for line in check_size.problems({"gone.py": 900}))


def test_justified_suppressions_are_told_from_bare_ones():
    """A rule and a reason must stand beside each suppression."""
    good = "# noqa: BLE001 - boundary: agent code"
    bare = "# noqa: BLE001"
    assert check_suppressions.JUSTIFIED.search(good)
    assert not check_suppressions.JUSTIFIED.search(bare)
    assert check_suppressions.JUSTIFIED.search("# pyright: ignore[reportX]  # their stub lies")
    assert not check_suppressions.JUSTIFIED.search("# pyright: ignore[reportX]")
