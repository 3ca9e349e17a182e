"""The browser that the tests of pages look with."""

import pytest
from chromium import Chromium, find_chromium


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """One headless browser for all tests; skipped where the machine has none."""
    if find_chromium() is None:
        pytest.skip("there is no Chromium")
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()
