"""The caption bank, against a slow copy of FALCON's score; merging; what separates; WordNet and granularity."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from propose_run import PixelEncoder, build_run

from contralens.data.runs import Run
from contralens.data.store import Store
from contralens.data.wordnet import find_wordnet
from contralens.errors import InputError, MissingPackage, StoreError
from contralens.evaluation.granularity import granularity
from contralens.math.caption_concepts import (
    STOP,
    contrast_phrases,
    falcon_contrasts,
    group_positives,
    merge_near,
    phrase_scores,
    phrases,
    separates,
    top_captions,
)
from contralens.proposing.propose import propose
from contralens.types import Exemplars

CAPTIONS = [
    f"a {texture} {colour} {thing} in a picture"
    for texture in ("striped", "plain")
    for colour in ("red", "green", "blue")
    for thing in ("disc", "thing")
]


@pytest.fixture
def bank(tmp_path: Path) -> str:
    path = tmp_path / "captions.txt"
    path.write_text("\n".join(CAPTIONS) + "\n")
    return f"captions:{path}"


@pytest.mark.parametrize("from_cache", [True, False])
def test_the_caption_bank_finds_what_sets_positives_apart(
    small: Run, tmp_path: Path, bank: str, from_cache: bool
) -> None:
    cache = small.path.parent / "cache" if from_cache else tmp_path / "empty"
    both = propose(small, bank, encoder=PixelEncoder(), cache=cache, folder=tmp_path / "a", merge=None)
    alone = propose(
        small, bank, prompt="positives", encoder=PixelEncoder(), cache=cache, folder=tmp_path / "b", merge=None
    )
    for n, colour in enumerate(("red", "green", "blue")):
        assert both.of(n)[0] == "striped"
        assert colour not in both.of(n)
        assert "disc" not in both.of(n)
        assert f"striped {colour} disc" in both.of(n)
        assert colour in alone.of(n)
    assert bool(both.manifest["notes"]) is not from_cache
    assert (tmp_path / "a" / "candidates.json").exists()


def test_captions_from_the_metadata_of_the_image_set(small: Run, tmp_path: Path) -> None:
    found = propose(
        small, "captions:metadata", encoder=PixelEncoder(), cache=small.path.parent / "cache", folder=tmp_path
    )
    assert found.of(0)[0] == "striped"
    assert found.sources("striped")[0]["model"] == "captions:metadata"
    assert found.sources("striped")[0]["score"] > 0.8


def test_falcons_own_contrast_and_groups(tmp_path: Path, bank: str) -> None:
    from contralens.data.store import Store

    run = build_run(tmp_path, cache=tmp_path / "cache")
    images = len(run.images)
    a = torch.rand(images, 6, generator=torch.Generator().manual_seed(0)) * 0.1
    kinds = run.images["label"].to_pylist()
    for i, kind in enumerate(kinds):
        a[i, 3] += "striped" in kind and "red" in kind
        for c, colour in enumerate(("red", "green", "blue")):
            a[i, c] += "striped" in kind and colour in kind
        a[i, 4] += "disc" in kind
    table = Store(tmp_path / "cache").table("rows", run.manifest["target"]["fingerprint"])
    table.append(run.images["fingerprint"].to_pylist(), {"rows": a.numpy()})
    found = propose(
        run, bank, encoder=PixelEncoder(), cache=tmp_path / "cache", folder=tmp_path / "c", merge=None,
        caption_options={"contrast": "falcon", "groups": [[0, 3]]},
    )  # fmt: skip
    # contrast images are discs of any other kind, so what is mined away is "disc", and red and striped both remain
    assert {"striped red", "striped red disc"} & set(found.of(0))
    assert "disc" not in found.of(0)
    with pytest.raises(StoreError, match="no longer holds"):
        propose(small_without_cache(run), bank, encoder=PixelEncoder(), cache=tmp_path / "none", folder=tmp_path / "d",
                images=tmp_path / "images", caption_options={"contrast": "falcon"})  # fmt: skip


def test_groups_are_found_filtered_and_named(tmp_path: Path, bank: str) -> None:
    from contralens.data.store import Store

    run = build_run(tmp_path, cache=tmp_path / "cache")
    kinds = run.images["label"].to_pylist()
    a = torch.rand(len(kinds), 6, generator=torch.Generator().manual_seed(0)) * 0.1
    striped = ["striped" in kind and "red" in kind for kind in kinds]
    for i, on in enumerate(striped):
        a[i, [0, 1] if on else [5]] += 2.0
    table = Store(tmp_path / "cache").table("rows", run.manifest["target"]["fingerprint"])
    table.append(run.images["fingerprint"].to_pylist(), {"rows": a.numpy()})
    options = {"groups": "auto", "limit": 1.0, "least": 2, "coherent": 0.5}
    work = {"encoder": PixelEncoder(), "cache": tmp_path / "cache", "merge": None}
    found = propose(run, bank, folder=tmp_path / "c", caption_options=options, **work)
    assert [0, 1] in found.manifest["groups"]
    at = found.manifest["groups"].index([0, 1])
    assert found.manifest["discovered"][at]["images"] == sum(striped)
    assert found.manifest["discovered"][at]["coherence"] > 0.5
    assert found.of(0) == found.of(1)
    assert any("striped" in text for text in found.of(0))
    with pytest.raises(InputError, match=r"none of them with a mean cosine of its images above 1\.1; the best"):
        propose(run, bank, folder=tmp_path / "d", caption_options={**options, "coherent": 1.1}, **work)


def small_without_cache(run: Run) -> Run:
    return run


def test_phrase_scores_match_a_slow_copy() -> None:
    generator = torch.Generator().manual_seed(3)
    words = ["red", "green", "blue", "striped", "plain", "disc", "box", "of", "the", "with", "sand"]
    captions = [
        " ".join(words[int(i)] for i in torch.randint(len(words), (6,), generator=generator)) for _ in range(40)
    ]
    e = torch.nn.functional.normalize(torch.rand(30, 8, generator=generator), dim=1)
    c = torch.nn.functional.normalize(torch.rand(40, 8, generator=generator), dim=1)
    index = phrases(captions, 2)
    best, cosine, share = top_captions(e, c, 5)
    images = torch.tensor([3, 7, -1, 20, 3])
    for weights in ("cosine", "share"):
        ids, score = phrase_scores(images, best, cosine if weights == "cosine" else share, index)
        got = {index.texts[i]: s for i, s in zip(ids.tolist(), score.tolist(), strict=True)}
        slow: dict[str, float] = {}
        used = [i for i in images.tolist() if i >= 0]
        for text in index.texts:
            total = 0.0
            for i in used:
                ranked = sorted(range(40), key=lambda m, i=i: -float(e[i] @ c[m]))[:5]
                mean = sum(float(e[i] @ c[m]) for m in range(40)) / 40 if weights == "share" else 0.0
                top = float(e[i] @ c[ranked[0]]) - mean if weights == "share" else 1.0
                fits = [m for m in ranked if re.search(rf"(^| ){text}( |$)", captions[m])]
                total += max(((float(e[i] @ c[m]) - mean) / top for m in fits), default=0.0)
            if total:
                slow[text] = total / len(used)
        assert got == pytest.approx(slow, abs=1e-5)
    assert not any(t.split()[0] in STOP or t.split()[-1] in STOP for t in index.texts)


def test_fragments_and_words_that_name_nothing_are_no_concepts() -> None:
    texts = phrases(["two people in a boat rowing down the river", "looking up at one of the other dogs"]).texts
    assert {"two people", "boat", "boat rowing", "river", "people", "dogs"} <= set(texts)
    assert not {"two", "up", "rowing down", "boat rowing down", "one", "other", "other dogs"} & set(texts)


def test_falcons_rule_with_its_own_numbers() -> None:
    captions = ["red disc", "striped disc"]
    best, cosine = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0.3, 0.05], [0.3, 0.05]])
    index = phrases(captions, 1)
    positives, contrasts = torch.tensor([1]), torch.tensor([0])
    found = contrast_phrases(positives, contrasts, best, cosine, index, held=0.1)
    assert [(t, round(a, 3), round(b, 3)) for t, a, b in found] == [("striped", 0.3, 0.05)]


def test_falcon_contrasts_match_a_slow_copy() -> None:
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(60, 5, generator=generator)
    positives = torch.tensor([4, 9, 30, -1])
    got = [i for i in falcon_contrasts(a, positives, [1, 3], least=0.85, most=7).tolist() if i >= 0]
    rest = torch.nn.functional.normalize(a[:, [0, 2, 4]], dim=1)
    mean = rest[[4, 9, 30]].mean(0)
    cosine = [float(rest[i] @ mean / mean.norm()) for i in range(60)]
    fits = [i for i in range(60) if all(a[i, f] < a[:, f].mean() for f in (1, 3)) and cosine[i] >= 0.85]
    assert got == sorted(fits, key=lambda i: -cosine[i])[:7]
    assert len(got) > 2
    assert group_positives(torch.tensor([[1.0, 0], [0.9, 5], [0.2, 9]]), [0, 1], 2).tolist() == [1, 2]


def test_near_synonyms_are_merged_without_chains() -> None:
    angles = torch.tensor([0.0, 0.2, 0.4, 3.0])
    rows = torch.stack([angles.cos(), angles.sin()], 1)
    counts_as, cosine = merge_near(rows, float(torch.cos(torch.tensor(0.25))))
    assert counts_as.tolist() == [0, 0, 2, 3]
    assert cosine[1] == pytest.approx(float(torch.cos(torch.tensor(0.2))))


def test_separates_matches_the_binomial() -> None:
    from scipy.stats import binomtest

    e = torch.nn.functional.normalize(torch.randn(40, 4, generator=torch.Generator().manual_seed(2)), dim=1)
    t = torch.eye(4)
    positives, contrasts = torch.arange(20)[None], torch.arange(20, 40)[None].clone()
    contrasts[0, 19] = -1
    share, p = separates(Exemplars(torch.zeros(1), positives, positives, contrasts, positives), e, t)
    for c in range(4):
        wins = int((e[:19, c] > e[20:39, c]).sum())
        assert share[0, c] == pytest.approx(wins / 19)
        assert p[0, c] == pytest.approx(binomtest(wins, 19, alternative="greater").pvalue)


def wordnet_or_skip() -> object:
    try:
        return find_wordnet()
    except MissingPackage as e:
        pytest.skip(str(e))


def test_hypernyms_of_real_wordnet() -> None:
    words = wordnet_or_skip()
    chain = [text for text, _ in words.chain("Red striped zebra")]  # type: ignore[attr-defined]
    assert chain[:4] == ["red striped zebra", "striped zebra", "zebra", "equine"]
    assert chain[-1] == "entity"
    assert [t for t, _ in words.chain("mice")][1] == "rodent"  # type: ignore[attr-defined]
    assert words.chain("qwxzt") == []  # type: ignore[attr-defined]
    assert words.chain("bird of prey")[1][0] == "bird"  # type: ignore[attr-defined]
    assert any("wading" in gloss for gloss in words.glosses("crane"))  # type: ignore[attr-defined]


NOUNS = """  1 a licence line
striped n 1 1 @ 1 0 00000200
texture n 1 1 @ 1 0 00000300
"""
DATA = """  1 a licence line
00000200 03 n 01 striped 0 001 @ 00000300 n 0000 | lines side by side
00000300 03 n 01 plain 0 000 | how a surface looks; and more
"""


def test_granularity_tells_where_the_evidence_stops(small: Run, tmp_path: Path) -> None:
    (tmp_path / "index.noun").write_text(NOUNS)
    (tmp_path / "data.noun").write_text(DATA)
    out = granularity(small, wordnet=tmp_path, encoder=PixelEncoder(), cache=small.path.parent / "cache")
    assert [o["neuron"] for o in out] == [0, 1, 2]
    fine, coarse = out[0]["chain"]
    assert (fine["concept"], fine["gloss"], fine["holds"], fine["pairs"]) == (
        "striped",
        "lines side by side",
        True,
        1.0,
    )
    assert (coarse["concept"], coarse["holds"]) == ("plain", False)
    assert fine["score"] > coarse["score"]
    assert out[0]["broadest"] == "striped"
    given: Any = {
        "wordnet": tmp_path,
        "encoder": PixelEncoder(),
        "scorer": "lookalike",
        "cache": small.path.parent / "cache",
    }
    with pytest.raises(StoreError, match="cache no longer holds those of this run"):
        granularity(small, **given)  # looks at the activations of all images
    ids, colours = small.images["id"].to_pylist(), ("red", "green", "blue")
    activations = np.array([[5.0 * name.startswith(f"{c}-striped") for c in colours] for name in ids], np.float32)
    table = Store(given["cache"]).table("rows", small.manifest["target"]["fingerprint"])
    table.append(small.images["fingerprint"].to_pylist(), {"rows": activations})
    other = granularity(small, **given)
    assert [o["broadest"] for o in other] == [o["broadest"] for o in out]
    assert other[0]["chain"][0]["score"] > other[0]["chain"][1]["score"]
    assert other[0]["chain"][0]["score"] != fine["score"]
    with pytest.raises(InputError, match="holds no WordNet"):
        granularity(small, wordnet=tmp_path / "nowhere", encoder=PixelEncoder())
