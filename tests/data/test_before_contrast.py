"""Which label contrast replaced: for a contrastive primary scorer, and for one that chooses among others."""

from __future__ import annotations

import pytest

from contralens.data.contrast_changes import before_contrast


@pytest.mark.parametrize(
    ("labels", "primary", "before"),
    [
        ({"semanticlens": "red", "csp": "striped"}, "csp", "red"),
        ({"semanticlens": "red", "csp": "red"}, "csp", None),
        ({"semanticlens": "red", "csp": None}, "csp", None),
        ({"semanticlens": "red", "csp": "striped", "auto": "striped"}, "auto", "red"),
        ({"semanticlens": "red", "csp": "striped", "auto": "red"}, "auto", None),
        ({"semanticlens": "red", "csp": "striped", "auto": "sand"}, "auto", None),
        ({"semanticlens": "white", "csp:gamma=0": "red", "csp": "striped", "auto": "striped"}, "auto", "red"),
        ({"clip_dissect": "red", "auto": "striped"}, "auto", None),
    ],
)
def test_the_label_that_contrast_replaced(labels: dict[str, str | None], primary: str, before: str | None) -> None:
    assert before_contrast(labels, primary) == before
