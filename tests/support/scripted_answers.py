"""Answers of a model, as odd as they come: for tests of what every client format makes of them."""

import json

from hypothesis import strategies as st

from tests.support.model_server import Answer

texts = st.text(max_size=24) | st.sampled_from(
    [
        "\n\ndata: x\n\n",
        "日本語 🎈🇩🇪",
        "a\u2028b\x85c\u2029\x0b\x1c",
        '"}]\\',
        "\r\n",
        "event: ping\n",
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
arguments = (
    st.dictionaries(st.text(max_size=5), json_values, max_size=3).map(json.dumps)
    | st.sampled_from(['{"q": 1.50, "q": "é\\n"}', "{}", ' {"a":[ ]}\n'])
    | st.sampled_from(["", "[1]", "null", '{"q": ', "{'q': 1}", "🎈\n", '"text"'])
)
answers = st.builds(
    Answer,
    text=texts,
    reasoning=st.just("") | texts,
    tools=st.lists(st.tuples(st.sampled_from(["search", "get_weather"]), arguments), max_size=3),
    interleaved=st.booleans(),
    write_bytes=st.sampled_from([None, 11, 64]),
    spaced=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n"]),
    cached_tokens=st.none() | st.integers(0, 3),
)
