"""The explorer's JSON: what it says agrees with the run, is shaped as documented, and needs no torch."""

from __future__ import annotations

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from explorer_serving import HTTP, CountedFinder, Eyes, copied, judged, make_run, serving
from patience import HUNG
from PIL import Image
from pydantic import TypeAdapter

from contralens.data.card import card, png
from contralens.data.contrast_changes import changes
from contralens.data.runs import Run
from contralens.explorer import shapes


@pytest.fixture(scope="module")
def address(finished: Run) -> Any:
    with serving([finished.path]) as url:
        yield url


def get(url: str, **query: Any) -> Any:
    answer = HTTP.get(url, params=query or None, timeout=HUNG)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_importing_and_starting_loads_no_torch(finished: Run) -> None:
    code = (
        "import sys; from contralens.explorer.app import create_app; from contralens.explorer.export import export;"
        f"create_app([{str(finished.path)!r}]); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=HUNG).returncode == 0


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/api/runs", shapes.RunList),
        ("/api/runs/run/index", shapes.Index),
        ("/api/runs/run/neurons", shapes.Rows),
        ("/api/runs/run/neurons/0", shapes.Detail),
        ("/api/runs/run/neurons/4", shapes.Detail),
        ("/api/runs/run/map", shapes.Plane),
        ("/api/runs/run/notes", shapes.Notes),
        ("/api/runs/run/search?text=red", shapes.Hits),
        ("/api/compare?a=run&b=run&scorer_b=semanticlens", shapes.Comparison),
    ],
)
def test_json_is_shaped_as_documented(address: str, path: str, shape: Any) -> None:
    TypeAdapter(shape).validate_json(HTTP.get(address + path, timeout=HUNG).content, strict=True)


def test_openapi_describes_every_address(address: str) -> None:
    paths = get(f"{address}/openapi.json")["paths"]
    assert {p for p in paths if p.startswith("/api/")} == set(paths)
    assert len(paths) >= 10
    for methods in paths.values():
        for about in methods.values():
            assert about["summary"]
            assert "200" in about["responses"]


def test_index_and_rows_agree_with_the_run(address: str, finished: Run) -> None:
    index = get(f"{address}/api/runs/run/index")
    by_scorer = {s["scorer"]: s for s in index["scorers"]}
    assert index["primary"] == "csp"
    for scorer in finished.scorers:
        expected = finished.rows(scorer)
        names = [index["labels"][i] if i >= 0 else None for i in by_scorer[scorer]["label"]]
        assert names == [row["label"] for row in expected]
        got = [s if s is not None else np.nan for s in by_scorer[scorer]["score"]]
        scores = [r["score"] if r["score"] is not None else np.nan for r in expected]
        assert np.allclose(got, scores, 1e-4, equal_nan=True)
        sure = [np.nan if r["confidence"] is None else r["confidence"] for r in expected]
        got = [np.nan if c is None else c for c in by_scorer[scorer]["columns"]["confidence"]]
        assert np.allclose(got, sure, 1e-4, equal_nan=True)
        assert np.isfinite(got).any()
    first = finished.neuron(0)["exemplars"]
    assert index["positives"][:4] == [e["positive"] for e in first[:4]]
    assert index["contrasts"][:4] == [e["contrast"] for e in first[:4]]
    assert index["positives"][4 * index["shown"] : 5 * index["shown"]] == [-1] * 4

    rows = get(f"{address}/api/runs/run/neurons", sort="score", descending=True, limit=1000)["rows"]
    scores = [r["score"] for r in rows if r["score"] is not None]
    assert scores == sorted(scores, reverse=True)
    without = [r["neuron"] for r in finished.rows() if r["label"] is None]
    assert {4, 5} <= set(without)
    assert [r["neuron"] for r in rows[-len(without) :]] == without
    sure = [
        r["figures"]["confidence"]
        for r in get(f"{address}/api/runs/run/neurons", sort="confidence", descending=True, limit=1000)["rows"]
    ]
    told = [c for c in sure if c is not None]
    assert told == sorted(told, reverse=True)
    assert sure[len(told) :] == [None] * len(without)
    found = get(f"{address}/api/runs/run/neurons", q="MAGENTA", limit=1000)
    assert found["total"] == sum("magenta" in (r["label"] or "") for r in finished.rows())
    high = get(f"{address}/api/runs/run/neurons", within="score:0.99:", limit=1000)
    assert high["total"] == sum((r["score"] or 0) >= 0.99 for r in finished.rows())
    dead = sum(n["status"] == "dead" for n in finished.neurons.to_pylist())
    assert get(f"{address}/api/runs/run/neurons", status="dead")["total"] == dead >= 1


@pytest.mark.parametrize(
    "query",
    ["sort=nothing", "within=score", "within=nothing:0:1", "scorer=cps", "limit=0", "limit=100000", "offset=-1"],
)
def test_what_makes_no_sense_is_told_in_one_line(address: str, query: str) -> None:
    answer = HTTP.get(f"{address}/api/runs/run/neurons?{query}")
    assert answer.status_code == 422
    assert len(answer.json()["error"].splitlines()) == 1


def test_a_neuron_is_told_with_its_evidence(address: str, finished: Run) -> None:
    detail = get(f"{address}/api/runs/run/neurons/7")
    expected = finished.neuron(7)
    assert [p["positive"]["id"] for p in detail["exemplars"]] == [e["positive_id"] for e in expected["exemplars"]]
    assert [p["contrast"]["id"] for p in detail["exemplars"]] == [e["contrast_id"] for e in expected["exemplars"]]
    assert [p["similarity"] for p in detail["exemplars"]] == pytest.approx(
        [e["similarity"] for e in expected["exemplars"]], abs=1e-6
    )
    assert [entry["scorer"] for entry in detail["labels"]] == finished.scorers
    for entry in detail["labels"]:
        row = expected["labels"][entry["scorer"]]
        assert (entry["confidence"], entry["reasons"]) == (pytest.approx(row["confidence"]), row["reasons"])
    assert sum(detail["histogram"]["counts"]) == 70
    assert (detail["previous"], detail["next"]) == (6, 8)
    assert 7 not in [n["neuron"] for n in detail["neighbours"]]
    similar = [n["similarity"] for n in detail["neighbours"]]
    assert similar == sorted(similar, reverse=True)
    blob = HTTP.get(f"{address}/api/runs/run/images/{detail['exemplars'][0]['positive']['image']}.jpg")
    assert blob.content == finished.thumbnail(expected["exemplars"][0]["positive"])
    assert {m["what"] for m in detail["missing"]} >= {"activation maps over the images"}
    assert HTTP.get(f"{address}/api/runs/run/neurons/999").status_code == 404


def test_a_card_to_share_is_the_one_that_the_command_writes(address: str, finished: Run) -> None:
    answer = HTTP.get(f"{address}/api/runs/run/neurons/7/card.png", timeout=HUNG)
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == png(card(finished, 7))
    dark = HTTP.get(f"{address}/api/runs/run/neurons/7/card.png?dark=true", timeout=HUNG).content
    assert dark == png(card(finished, 7, dark=True))
    assert HTTP.get(f"{address}/api/runs/run/neurons/999/card.png", timeout=HUNG).status_code == 404


def test_the_label_that_contrast_replaced_is_told(address: str, finished: Run) -> None:
    changed = {change.neuron: change.before for change in changes(finished)}
    for neuron in range(36):
        assert get(f"{address}/api/runs/run/neurons/{neuron}")["before"] == changed.get(neuron)


def test_the_class_of_an_output_neuron_is_told(finished: Run, tmp_path: Path) -> None:
    labels = {row["neuron"]: row["label"] for row in finished.rows()}
    names = pa.array([f"{labels[n] or 'none'}, other" if n % 2 else "hay bale" for n in range(36)])
    tables = {}
    for table in ("neurons", "labels"):
        own = getattr(finished, table)
        of = names.take(own["neuron"].combine_chunks())
        tables[table] = own.set_column(own.schema.get_field_index("name"), "name", of)
    manifest = {**finished.manifest, "target": {**finished.manifest["target"], "layer": "."}}
    replace(finished, manifest=manifest, **tables).save(tmp_path / "run")
    with serving([tmp_path / "run"]) as url:
        for neuron in (6, 7, 4):
            found = get(f"{url}/api/runs/run/neurons/{neuron}")["true_class"]
            named = None if labels[neuron] is None else bool(neuron % 2)
            assert found == {"name": names[neuron].as_py(), "named": named}
    with serving([finished.path]) as url:
        assert get(f"{url}/api/runs/run/neurons/7")["true_class"] is None


def test_gamma_pieces_give_the_scorers_own_scores(address: str, finished: Run) -> None:
    for neuron in (0, 7, 20):
        gamma = get(f"{address}/api/runs/run/neurons/{neuron}")["gamma"]
        a, b, (pp, pm, mm) = np.array(gamma["first"]), np.array(gamma["second"]), gamma["norms"]
        for g, scorer in ((0.0, "csp:gamma=0"), (0.5, "csp:gamma=0.5"), (1.0, "csp")):
            got = (a - g * b) / np.sqrt(pp - 2 * g * pm + g * g * mm)
            row = finished.neuron(neuron)["labels"][scorer]
            assert gamma["concepts"][int(got.argmax())] == row["label"]
            assert np.sort(got)[::-1][:5] == pytest.approx(row["scores"][:5], abs=1e-5)


def test_map_keeps_what_pca_keeps(address: str, finished: Run) -> None:
    plane = get(f"{address}/api/runs/run/map")
    units = finished.vectors["positive_mean"] - finished.vectors["contrast_mean"]
    units = units / np.linalg.norm(units, axis=1, keepdims=True)
    spread = np.linalg.svd(units - units.mean(0), compute_uv=False) ** 2
    assert plane["explained"] == pytest.approx((spread / spread.sum())[:2].tolist(), abs=0.01)
    assert len(plane["x"]) == len(plane["neuron"]) == len(units)


def test_comparison_counts_changed_labels(address: str, finished: Run) -> None:
    found = get(f"{address}/api/compare", a="run", b="run", scorer_a="csp", scorer_b="semanticlens")
    a, b = ({r["neuron"]: r["label"] for r in finished.rows(s)} for s in ("csp", "semanticlens"))
    changed = [n for n in a if a[n] != b[n]]
    assert [c["a"]["neuron"] for c in found["changes"]] == changed
    assert (found["both"], found["same"]) == (36, 36 - len(changed))


def test_search_finds_what_is_meant_and_loads_the_encoder_once(finished: Run) -> None:
    finder = CountedFinder()
    with serving([finished.path], finder=finder) as url, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: get(f"{url}/api/runs/run/search", text="pure blue", gamma=0), range(8)))
        assert finder.loads == 1
        assert all(a == answers[0] for a in answers)
        eyes = Eyes()
        query = (eyes.texts(["pure blue"]) - eyes.texts([""]))[0].numpy()
        first = finished.vectors["positive_mean"]
        cosine = (first / np.linalg.norm(first, axis=1, keepdims=True)) @ (query / np.linalg.norm(query))
        labeled = list(dict.fromkeys(finished.exemplars["neuron"].to_pylist()))
        best = labeled[int(cosine.argmax())]
        assert answers[0]["hits"][0]["neuron"] == best
        assert answers[0]["hits"][0]["similarity"] == pytest.approx(float(cosine.max()), abs=1e-5)

        picture = io.BytesIO()
        Image.new("RGB", (300, 200), "red").save(picture, "PNG")
        where, kind = f"{url}/api/runs/run/search?gamma=0&limit=3", {"content-type": "image/png"}
        answer = HTTP.post(where, content=picture.getvalue(), headers=kind)
        assert answer.status_code == 200
        assert len(answer.json()["hits"]) == 3
        direct = first @ np.array([1, 1e-3, 1e-3]) / np.linalg.norm(first, axis=1)
        assert answer.json()["hits"][0]["similarity"] == pytest.approx(float(direct.max()), abs=1e-3)
        assert HTTP.get(f"{url}/api/runs/run/search?text=nothing").status_code == 422


def test_without_an_encoder_everything_else_works(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving([finished.path], read_only=True) as url:
        told = get(f"{url}/api/runs")
        assert "--read-only" in told["encoder"]
        assert told["writable"] is False
        answer = HTTP.get(f"{url}/api/runs/run/search?text=red")
        assert (answer.status_code, "--read-only" in answer.json()["error"]) == (503, True)
        assert get(f"{url}/api/runs/run/neurons/3")["neighbours"]
    from contralens.explorer import search

    monkeypatch.setattr(search.importlib.util, "find_spec", lambda name: None)
    with serving([finished.path], finder=search.Finder()) as url:
        assert "torch is not installed" in get(f"{url}/api/runs")["encoder"]
        assert get(f"{url}/api/runs/run/map")["x"]


def test_another_encoder_is_refused(finished: Run) -> None:
    with serving([finished.path], finder=CountedFinder("ab" * 16)) as url:
        answer = HTTP.get(f"{url}/api/runs/run/search?text=red")
        assert answer.status_code == 503
        assert "not the one this run was made with" in answer.json()["error"]


def test_evaluation_and_candidates_are_shown(finished: Run, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    judged(finished, run)
    with serving([run]) as url:
        detail = get(f"{url}/api/runs/run/neurons/3")
        assert detail["evaluation"]["values"][0] == {
            "scorer": "csp",
            "metric": "auc",
            "value": pytest.approx(3 / 35, abs=1e-6),
            "mean": 0.5,
            "low": 0.4,
            "high": 0.6,
        }
        assert detail["evaluation"]["verdicts"][0]["label_set"] == ["red", "blue"]
        assert [(c["concept"], c["model"]) for c in detail["candidates"]] == [
            ("ruby", "a-model"),
            ("a red disc", "a-model"),
        ]
        index = get(f"{url}/api/runs/run/index")
        csp = next(s for s in index["scorers"] if s["scorer"] == "csp")
        assert set(csp["columns"]) == {"auc", "confidence", "fdr", "stability"}
        assert get(f"{url}/api/runs/run/neurons", within="auc:0.5:")["total"] == 18
        TypeAdapter(shapes.Detail).validate_python(detail)
        assert get(f"{url}/api/runs")["runs"][0]["evaluation"][0]["metric"] == "auc"


def test_several_runs_of_one_name_and_an_old_run_without_vectors(finished: Run, discs: Path, tmp_path: Path) -> None:
    make_run(discs, tmp_path / "b" / "run", k=3)
    old = copied(finished, tmp_path / "a" / "run")
    (old / "vectors.safetensors").unlink()
    with serving([old, tmp_path / "b" / "run"]) as url:
        assert [r["key"] for r in get(f"{url}/api/runs")["runs"]] == ["run", "run-2"]
        detail = get(f"{url}/api/runs/run/neurons/3")
        assert detail["gamma"] is None
        assert any("gamma" in m["what"] for m in detail["missing"])
        assert HTTP.get(f"{url}/api/runs/run/map").status_code == 404
        assert len(get(f"{url}/api/runs/run-2/neurons/3")["exemplars"]) == 3
