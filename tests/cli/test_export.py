"""`agl export` writes data sets for fine-tuning."""

import asyncio
import json

import pytest

from agentlightning.cli import main
from agentlightning.store.sqlite import SQLiteLightningStore
from tests.support.rollouts import add_rollout, said, user


@pytest.fixture
def run_dir(tmp_path):
    """A run with two rated rollouts of one task."""

    async def fill():
        store = SQLiteLightningStore(f"sqlite:///{tmp_path / 'run' / 'store.db'}")
        try:
            for answer, reward in (("4", 1.0), ("5", 0.0)):
                turns = [([user("2+2?")], said(answer))]
                await add_rollout(store, turns, reward=reward, metadata={"step": 3})
        finally:
            await store.close()

    (tmp_path / "run").mkdir()
    asyncio.run(fill())
    return tmp_path / "run"


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_directory(run_dir, tmp_path, capsys):
    """A run's data set holds what the options take; files go to stdout, the count to stderr."""
    out = tmp_path / "sft.jsonl"
    arguments = ["export", str(run_dir), "--format", "trl-sft", "--out", str(out)]
    assert main([*arguments, "--min-reward", "0.5", "--metadata", "step=3"]) == 0
    assert [record["reward"] for record in read_lines(out)] == [1.0]
    printed = capsys.readouterr()
    assert printed.out == f"{out}\n"
    assert "1 records from 1 rollouts" in printed.err
    assert "left out: 1 reward too low" in printed.err


def test_preferences_by_url(run_dir, tmp_path, capsys):
    """A store's URL, or its file, will do; OpenAI's format has its provenance beside it."""
    out = tmp_path / "dpo.jsonl"
    for source in (f"sqlite:///{run_dir / 'store.db'}", str(run_dir / "store.db")):
        assert main(["export", source, "--format", "openai-dpo", "--out", str(out)]) == 0
        (line,) = read_lines(out)
        assert line["preferred_output"] == [said("4")]
    assert capsys.readouterr().out.splitlines()[1] == f"{out}.provenance.jsonl"


def test_nothing_to_export(run_dir, tmp_path, capsys):
    """Without a record nothing is written, and the status says so."""
    out = tmp_path / "x.jsonl"
    arguments = ["export", str(run_dir), "--format", "trl-kto", "--out", str(out)]
    assert main([*arguments, "--mode", "test"]) == 1
    assert not out.exists()
    assert "left out: 2 rollouts of another mode" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said_so"),
    [
        (["{dir}", "--format", "csv"], "csv"),
        (["{dir}", "--format", "trl-sft", "--metadata", "x"], "KEY=VALUE"),
        (["{dir}/..", "--format", "trl-sft"], "no store.db"),
        (["{dir}", "--format", "trl-dpo", "--per-call"], "per_call"),
        (["nowhere", "--format", "trl-sft"], "no store URL"),
    ],
)
def test_wrong_arguments(run_dir, tmp_path, capsys, arguments, said_so):
    """What is wrong is said, and nothing is written."""
    given = [argument.replace("{dir}", str(run_dir)) for argument in arguments]
    assert main(["export", *given, "--out", str(tmp_path / "o.jsonl")]) != 0
    assert said_so in capsys.readouterr().err
    assert not (tmp_path / "o.jsonl").exists()
