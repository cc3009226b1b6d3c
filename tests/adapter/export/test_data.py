"""Exported records become files and data sets."""

import json

import datasets
import pytest
from pyarrow import parquet

from agentlightning.adapter.export import ExportedData
from agentlightning.errors import ConfigurationError, MissingExtraError

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"a": {"type": "string"}}}}]
MESSAGES = [
    {"role": "user", "content": [{"type": "text", "text": "q"}]},
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"arguments": {"a": "1"}}}]},
]
RECORDS = [
    {"messages": MESSAGES, "tools": TOOLS, "rollout_id": "r1", "reward": 1.0, "weight_version": 3},
    {"messages": MESSAGES[1:], "rollout_id": "r2", "reward": None, "weight_version": None},
]
ORIGINS = [{"rollout_id": "r1"}, {"rollout_id": "r2"}]


def made(name="trl-sft", records=None):
    return ExportedData(format=name, records=records or RECORDS, provenance=ORIGINS)


def read_lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_json_lines(tmp_path):
    """One record a line, in a directory that is made, and nothing else beside it."""
    path = tmp_path / "deep" / "sft.jsonl"
    assert made().write(path) == [path]
    assert read_lines(path) == RECORDS
    assert [p.name for p in path.parent.iterdir()] == ["sft.jsonl"]


def test_odd_texts(tmp_path):
    """Half a surrogate pair and line separators survive the way through a file."""
    records = [{"messages": [{"role": "user", "content": "\ud83d \u2028 é"}]}]
    made(records=records).write(tmp_path / "a.jsonl")
    (line,) = (tmp_path / "a.jsonl").read_bytes().split(b"\n")[:-1]
    assert json.loads(line) == records[0]


def test_openai_gets_its_provenance_beside(tmp_path):
    """OpenAI's files hold nothing of ours; where records come from is told in a second file."""
    path = tmp_path / "ft.jsonl"
    written = made("openai-sft", [{"messages": []}, {"messages": []}]).write(path)
    assert [p.name for p in written] == ["ft.jsonl", "ft.jsonl.provenance.jsonl"]
    assert read_lines(written[1]) == ORIGINS
    with pytest.raises(ConfigurationError, match="JSON lines"):
        made("openai-sft").write(tmp_path / "ft.parquet")


def test_missing_libraries(tmp_path, monkeypatch):
    """Without the libraries the error names the extra."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"agentlightning\[datasets\]"):
        made().write(tmp_path / "a.parquet")
    with pytest.raises(MissingExtraError, match="datasets is not installed"):
        made().to_dataset()


def test_a_hugging_face_data_set():
    """Messages and tools come back as they were, without members of other rows."""
    data = made().to_dataset()
    assert data[0] == RECORDS[0]
    assert data[1] == {**RECORDS[1], "tools": None}


def test_parquet(tmp_path):
    """A Parquet file holds the same; Hugging Face's datasets reads it with its types."""
    path = tmp_path / "a.parquet"
    made().write(path)
    data = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    assert data[0] == RECORDS[0]
    assert data[1] == {**RECORDS[1], "tools": None}


def test_columns_without_any_value(tmp_path):
    """A column that is empty in all rows has a type all the same."""
    made(records=[{"messages": [], "reward": None, "agent": None}]).write(tmp_path / "a.parquet")
    kinds = {field.name: str(field.type) for field in parquet.read_schema(tmp_path / "a.parquet")}
    assert kinds["reward"] == "double"
    assert kinds["agent"] == "string"
