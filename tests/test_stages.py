"""The stages of labeling: values that a person goes on from, without touching an image again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels
from PIL import Image

import contralens
from contralens.errors import InputError
from contralens.labeling.stages import Mined, collect, judge, mine, score, write
from contralens.settings.label import Label, Mine


@pytest.fixture(scope="module")
def mined(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Mined:
    cache = tmp_path_factory.mktemp("stages")
    return mine(
        collect(Mine(ColourNet(), discs, ColourEncoder(), layer="relu", preprocess=to_pixels, k=3, cache=cache))
    )


def labeled(mined: Mined, **options: Any) -> contralens.Run:
    s = mined.settings
    return contralens.label(
        ColourNet(), s.images, ColourEncoder(), list(COLOURS), layer="relu", preprocess=to_pixels, cache=s.cache,
        **{"k": 3, **options},
    )  # fmt: skip


def without_versions(run: contralens.Run) -> contralens.Run:
    return replace(run, manifest={k: v for k, v in run.manifest.items() if k not in ("request", "made_here")})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scorers": "csp:gamma=0.5", "top": 2},
        {"fdr": 0.2, "fakes": 20},
        {"confidence": False},
    ],
)
def test_the_stages_give_what_label_gives(mined: Mined, options: dict[str, Any]) -> None:
    late = {name: value for name, value in options.items() if name in ("fdr", "fakes")}
    early = {name: value for name, value in options.items() if name not in late}
    run = write(judge(score(mined, vocabulary=list(COLOURS), **early), **late))
    assert without_versions(run) == without_versions(labeled(mined, **options))


def test_primary_names_the_scorer_whose_labels_count(mined: Mined) -> None:
    plain = score(mined, vocabulary=list(COLOURS), scorers=["csp", "semanticlens"])
    named = score(mined, vocabulary=list(COLOURS), scorers=["csp", "semanticlens"], primary="csp")
    joined = score(mined, vocabulary=list(COLOURS), scorers="csp", primary="csp:gamma=0.5")
    for scored, scorers in (
        (plain, ["csp", "semanticlens"]), (named, ["semanticlens", "csp"]), (joined, ["csp", "csp:gamma=0.5"]),
    ):  # fmt: skip
        run = write(judge(scored))
        assert (run.scorers, run.manifest["primary"]) == (scorers, scorers[-1])
        assert {row["scorer"] for row in run.rows()} == {scorers[-1]}
    with pytest.raises(InputError, match=r"unknown scorer 'cspp'; did you mean csp\?"):
        score(mined, vocabulary=list(COLOURS), primary="cspp")


def test_each_stage_is_a_short_line(mined: Mined) -> None:
    scored = score(mined, vocabulary=list(COLOURS))
    for found in (mined.collected, mined, mined.exemplars, scored, judge(scored)):
        assert repr(found).startswith(type(found).__name__)
        assert len(repr(found)) < 1000, repr(found)


def test_nothing_is_computed_of_images_again(mined: Mined, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("an image was touched")

    for network in mined.collected.steady.extractors:
        monkeypatch.setattr(type(network), "__call__", never)
    monkeypatch.setattr(type(mined.collected.images), "load", never)
    for gamma in (0, 1):
        scored = score(mined, vocabulary=list(COLOURS)[: 2 + gamma], scorers=f"csp:gamma={gamma}")
        assert len(scored.concepts) == 2 + gamma
        assert judge(scored, fdr=0.1, fakes=20).chances.keys() == {f"csp:gamma={gamma}"}
    assert mine(mined.collected, k=2, holdout=0.3).exemplars.positives.shape[1] == 2


def test_what_a_stage_has_settled_stays(mined: Mined) -> None:
    with pytest.raises(InputError, match="`k` was fixed by an earlier stage"):
        score(mined, vocabulary=list(COLOURS), k=5)
    with pytest.raises(InputError, match="did you mean scorers"):
        score(mined, vocabulary=list(COLOURS), scorer="csp")
    with pytest.raises(InputError, match="`score` takes no `fdr`"):
        score(mined, vocabulary=list(COLOURS), fdr=0.1)
    with pytest.raises(InputError, match="must be a whole number"):
        score(mined, vocabulary=list(COLOURS), top="ten")
    streamed = collect(mined.settings.to(Mine, store_activations=False))
    with pytest.raises(InputError, match="collect again"):
        mine(streamed, k=2)
    assert mine(streamed).exemplars.positives.equal(mined.exemplars.positives)


def test_settings_of_later_stages_may_come_early(mined: Mined, tmp_path: Path) -> None:
    settings = Label(
        **{**vars(mined.settings), "vocabulary": list(COLOURS), "fdr": 0.2, "fakes": 20, "out": tmp_path / "r"}
    )
    run = write(judge(score(mine(collect(settings)))))
    assert run.path == tmp_path / "r"
    assert run.manifest["chance"]["fakes"] == 20


def test_a_proposer_is_asked_once_with_the_exemplars(mined: Mined, tmp_path: Path) -> None:
    from contralens.proposing.proposers import Reply

    asked: list[int] = []

    class Says:
        name, fingerprint, batch, workers = "says", "says-1", 4, 1

        def ask(self, requests: Any) -> list[Reply]:
            asked.append(len(requests))
            return [Reply('{"concepts": ["violet"]}') for _ in requests]

    scored = score(
        mined, vocabulary=list(COLOURS), proposer=Says(), proposing={"folder": tmp_path / "c", "merge": None}
    )
    assert scored.concepts == [*COLOURS, "violet"]
    assert asked
    assert mined.run().labels.num_rows == 0


def test_simple_labels_use_a_combination_only_where_it_explains_more(tmp_path: Path) -> None:
    """`simple` on world 1: of levels and pairs of levels, fewer pairs label a neuron; every neuron keeps a label."""
    from contralens.math.combinations import parts_of
    from contralens.world.captions import concepts
    from contralens.world.render import render
    from contralens.world.targets import world

    for i, pixels in enumerate(render(world(1).scenes(300, 3, 0.5))):
        Image.fromarray(pixels).save(tmp_path / f"{i:03}.png")
    words = [c.text for c in concepts(2)]
    combined = {words[c] for c in parts_of(words)[:, 0].tolist()}
    found = mine(collect(Mine("world:1", tmp_path, "world", layer="block3", k=10, cache=tmp_path / "cache")))
    free, simple = (
        write(judge(score(found, vocabulary=words, scorers="csp", confidence=False, simple=on))) for on in (False, True)
    )
    count = [sum(row["label"] in combined for row in run.rows("csp")) for run in (free, simple)]
    assert count[1] < 0.9 * count[0]
    assert (free.manifest["simple"], simple.manifest["simple"]) == (False, True)
    assert all(row["label"] is not None for row in simple.rows("csp") if row["status"] == "ok")
