"""Rows and reports as values."""

import numpy as np

from agentlightning.adapter.token_row import RowSpan, TokenRow, TreeReport


def test_a_row_is_named_by_what_it_trains():
    """The role is that of the first trained span; calls are listed once."""
    spans = tuple(
        RowSpan(start=i, stop=i + 1, call_id=name, choice=0, role=name, trained=name == "b")
        for i, name in enumerate(["a", "b", "a"], start=1)
    )
    none = np.zeros(4)
    row = TokenRow(ids=none, mask=none, logp=none, versions=none, spans=spans)
    assert row.role == "b"
    assert row.call_ids == ("a", "b")


def test_an_empty_report_has_no_ratio():
    """Nothing merged where nothing was."""
    assert TreeReport.total([]).merge_ratio == 0.0
