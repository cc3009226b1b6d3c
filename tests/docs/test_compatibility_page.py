"""The page about 0.3.0 says what the tests enforce."""

import tomllib

from scripts.compatibility_page import PAGE, PENDING, SECTIONS, page


def test_page_is_made_from_the_list():
    """The committed page is what the script makes; run it after changing the list."""
    pending = tomllib.loads(PENDING.read_text(encoding="utf-8"))
    assert pending.keys() <= SECTIONS.keys()
    assert PAGE.read_text(encoding="utf-8") == page(pending)
