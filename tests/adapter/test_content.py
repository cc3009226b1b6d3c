"""Content of any library's making is read by kind."""

import pytest

from agentlightning.adapter.content import read_content, text_of

TEXT = {"type": "text", "text": "x"}


@pytest.mark.parametrize(
    ("part", "read"),
    [
        ({"type": "input_text", "text": "x"}, TEXT),
        ({"type": "output_text", "text": "x", "annotations": []}, TEXT),
        ("x", TEXT),
        (
            {"type": "input_image", "image_url": "http://h/i", "detail": "high"},
            {"type": "image_url", "image_url": {"url": "http://h/i", "detail": "high"}},
        ),
        (
            {"type": "input_file", "file_id": "f", "other": 1},
            {"type": "file", "file": {"file_id": "f"}},
        ),
        (
            {"type": "video", "url": "u"},
            {"type": "text", "text": '{"type": "video", "url": "u"}'},
        ),
    ],
)
def test_parts(part, read):
    """A part of a known kind is spelled OpenAI's way; one of another kind is kept as JSON."""
    assert read_content([part]).parts == [read]


def test_texts_that_are_json():
    """A list of parts as JSON text is read; other texts that look like it stay texts."""
    assert read_content('[{"type": "text", "text": "x"}]').parts == [TEXT]
    assert read_content('[{"a": 1}]').parts == [{"type": "text", "text": '[{"a": 1}]'}]
    assert read_content("[{").is_text


def test_calls_and_results_of_the_responses_api():
    """Items of responses have ids of their own beside those that tie call and result."""
    found = read_content(
        [
            {"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "id": "fo", "call_id": "c", "output": "r"},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        ]
    )
    assert found.calls == [{"id": "c", "name": "f", "arguments": "{}"}]
    assert found.results == [{"id": "c", "content": "r"}]
    assert text_of([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]) == "a\nb"
