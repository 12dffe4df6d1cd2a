"""The site builds without a warning, and every link in it leads somewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fenced import ROOT
from make_docs import broken


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_dead_links() -> None:
    pytest.importorskip("zensical", reason="needs the extra docs")
    done = subprocess.run([sys.executable, ROOT / "scripts/make_docs.py"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    site = ROOT / "site"
    reference = (site / "api.html").read_text(encoding="utf-8")
    assert "find_exemplars" in reference
    assert "score = &lt;v, t&gt;" in reference, "< in a docstring is no HTML"
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "fonts.googleapis" not in text, page
        assert "cdn." not in text, page


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="b.html#here">x</a><a href="c.html">y</a><a href="b.html#no">z</a>')
    (tmp_path / "b.html").write_text('<p id="here">')
    assert broken(tmp_path) == ["a.html: b.html#no has no such place", "a.html: c.html is not there"]
