"""Label files and sharing: the schema, round trips, what is not sent, damage, and the Hub's real client on loopback."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pytest
from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels
from hub_server import TOKEN, hub
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from patience import HUNG

import contralens
from contralens.cli import main
from contralens.data.final_labels import final
from contralens.data.folder_kinds import RELATIONS
from contralens.data.layer_relations import read
from contralens.data.runs import LABELS, Run, load
from contralens.data.seals import manifest_digest
from contralens.errors import InputError, RunError
from contralens.proposing.candidates import Candidates
from contralens.sharing.label_files import LabelFile, label_file, read_labels, schema
from contralens.sharing.local_paths import anonymous
from contralens.sharing.push_pull import pull, push

ROOT = Path(contralens.__file__).parents[2]


@pytest.fixture(scope="module")
def run(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A real run with proposals, evaluated against chance."""
    folder = tmp_path_factory.mktemp("shared")
    proposals = [
        {"concept": "teal", "text": "teal", "cosine": None, "neuron": 1, "name": "relu/1", "place": 0,
         "prompt": "contrastive", "model": "hf:/home/ada/models/tiny", "reply": "k", "score": None}
    ]  # fmt: skip
    found = Candidates(["teal"], proposals, [], {"proposer": "hf:/home/ada/models/tiny", "prompt": "contrastive"})
    made = contralens.label(
        ColourNet(), discs, ColourEncoder(), [*COLOURS, "grey"], layer="relu", preprocess=to_pixels, k=4,
        out=folder / "run", cache=folder / "cache", candidates=found, holdout=0.3,
    )  # fmt: skip
    contralens.evaluate(
        made, metrics="audit", fdr=0.5, fakes=40, source=discs, encoder=ColourEncoder(), target=None,
        cache=folder / "cache", check_metrics=False,
    )  # fmt: skip
    return load(made.path)


@pytest.fixture(scope="module")
def layers(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs of two layers with the matches that an atlas found between them."""
    home = tmp_path_factory.mktemp("layers")
    runs = contralens.label_layers(
        ColourNet(), discs, ColourEncoder(), COLOURS, layers=["relu", "."], preprocess=to_pixels, k=4,
        out=home / "runs", cache=home / "cache", confidence=False,
    )  # fmt: skip
    found = contralens.atlas(list(runs.values()), links=True, fakes=50, cache=home / "cache")
    assert found.manifest["notes"] == []
    return [run.path for run in runs.values() if run.path is not None]


def test_labels_in_the_shape_of_neuronpedias_exports(run: Run, tmp_path: Path) -> None:
    """The keys of each row are columns of its tables; whatever a row refers to is there; again gives the same bytes."""
    from contralens.sharing.neuronpedia import write_neuronpedia

    def rows(part: Path) -> list[dict[str, Any]]:
        opened = gzip.open if part.suffix == ".gz" else open
        with opened(part, "rt", encoding="utf-8") as f:
            return [json.loads(line) for line in f]

    folder = write_neuronpedia(run, tmp_path, model="net", scorers=run.scorers)
    assert folder == tmp_path / "net" / "relu"
    features, explanations, scores = (
        rows(folder / part / "batch-0.jsonl.gz") for part in ("features", "explanations", "scores")
    )
    assert [f["index"] for f in features] == [str(n) for n in range(len(run))]
    labeled = [r for scorer in run.scorers for r in final(run).rows(scorer) if r["label"] is not None]
    assert [(e["index"], e["description"]) for e in explanations] == [(str(r["neuron"]), r["label"]) for r in labeled]
    kinds = {f"contralens_{re.sub('[:=]', '-', scorer)}" for scorer in run.scorers}
    assert {e["typeName"] for e in explanations} <= kinds | {"human"}
    known = {e["id"]: e for e in explanations}
    assert len(known) == len(explanations)
    assert all(re.fullmatch("c[0-9a-f]{24}", one) for one in known)
    confidences = [s for s in scores if s["explanationScoreTypeName"] == "contralens_confidence"]
    assert len(confidences) == sum(r["confidence"] is not None for r in labeled)
    assert all(0 <= s["value"] <= 1 and s["explanationId"] in known for s in confidences)
    for name, of, key in (
        ("explanation_type", explanations, "typeName"),
        ("explanation_model_type", explanations, "explanationModelName"),
        ("explanation_score_type", scores, "explanationScoreTypeName"),
        ("explanation_score_model", scores, "explanationScoreModelName"),
    ):  # fmt: skip
        named = {row[key] for row in of} - {None}
        assert {row["name"] for row in rows(tmp_path / "config" / f"{name}.jsonl")} == named
    assert "/home/ada" not in "".join(json.dumps(row) for row in explanations + scores)
    before = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*.gz"))}
    write_neuronpedia(run, tmp_path, model="net", scorers=run.scorers)
    assert {p: p.read_bytes() for p in sorted(tmp_path.rglob("*.gz"))} == before


def test_the_command_writes_them(run: Run, command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, said, _ = command("export-labels", run.path, "--neuronpedia", "--out", tmp_path / "np", "--source", "relu-x")
    assert code == 0
    assert said.strip().endswith("relu-x: features, explanations and scores")
    for flags in (["--model", "x"], ["--neuronpedia", "--pairs", 2]):
        code, _, wrong = command("export-labels", run.path, *flags)
        assert code == 2
        assert "--neuronpedia" in wrong


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    def called(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["contralens", *map(str, args)])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return called


# --- the label file ---


def finally_judged(run: Run) -> pa.Table:
    """The labels as finally judged, with p and fdr of the labeling itself, as a label file has them."""
    labels = final(run).labels.select(run.labels.column_names)
    for name in ("p", "fdr"):
        labels = labels.set_column(labels.schema.get_field_index(name), name, run.labels[name])
    return labels


def test_the_schema_is_published_as_it_is_shipped_and_a_real_file_keeps_to_it(run: Run, tmp_path: Path) -> None:
    published = ROOT / "docs" / "schemas" / "labels-1.schema.json"
    if published.is_file():
        assert json.loads(published.read_text()) == schema()
    jsonschema.Draft7Validator.check_schema(schema())
    made = label_file(run).save(tmp_path / "l.json")
    jsonschema.Draft7Validator(schema()).validate(json.loads((tmp_path / "l.json").read_text()))
    again = read_labels(tmp_path / "l.json")
    assert again == made
    assert again.labels.equals(finally_judged(run))
    assert again.rows() == [row for row in finally_judged(run).to_pylist() if row["scorer"] == "auto"]
    assert [n["neuron"] for n in again.content["neurons"]] == list(range(len(run)))


def test_a_label_tells_its_evidence_its_source_and_what_was_measured(run: Run) -> None:
    content = label_file(run, pairs=2).content
    neuron = content["neurons"][1]
    assert [p["rank"] for p in neuron["evidence"]] == [0, 1]
    first = run.neuron(1)["exemplars"][0]
    image = content["images"][neuron["evidence"][0]["positive"]]
    assert image["id"] == first["positive_id"]
    assert image["fingerprint"] == run.images["fingerprint"][first["positive"]].as_py()
    assert neuron["evidence"][0]["activation"] == pytest.approx(first["activation"])
    assert neuron["proposals"][0]["model"] == "hf:tiny"
    assert content["candidates"]["proposer"] == "hf:tiny"
    *tested, auto = neuron["labels"]
    assert auto["scorer"] == "auto"
    assert "chance" not in auto, "confidence takes the place of the null test"
    for label in tested:
        sources = {None: None, "teal": "proposed"}  # None: rejected by the evaluation
        assert label["source"] == sources.get(label["label"], "vocabulary")
        assert (label["label"] is None) == (not label["chance"]["beats_chance"])
        assert 0 <= label["chance"]["fdr"] <= 1
        assert isinstance(label["chance"]["beats_chance"], bool)
    assert set(neuron["measured"]) == {"exemplar_clarity", "redundancy", "polysemanticity"}
    assert content["evaluation"]["chance"]["fakes"] == 40
    assert content["probe"]["held_out"] == 0.3
    assert "/home/ada" not in json.dumps(content)
    bare = label_file(run, names=False).content
    assert {image["id"] for image in bare["images"]} == {None}


numbers = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)


@st.composite
def label_tables(draw: Any) -> pa.Table:
    scorers = draw(st.lists(words, min_size=1, max_size=3, unique=True))
    rows = []
    for neuron in range(draw(st.integers(0, 4))):
        name = draw(words)
        for scorer in scorers:
            concepts = draw(st.lists(words, max_size=3))
            scores = draw(st.lists(numbers, min_size=len(concepts), max_size=len(concepts)))
            best = (concepts[0], scores[0]) if concepts else (None, None)
            status = "ok" if concepts else draw(st.sampled_from(["dead", "nan", "constant", "chance"]))
            rates = draw(st.tuples(st.none() | st.floats(0, 1), st.none() | st.floats(0, 1)))
            sure = draw(st.tuples(st.none() | st.floats(0, 1), st.none() | st.lists(words, max_size=2)))
            rows.append((neuron, name, scorer, status, *best, concepts, scores, *rates, *sure))
    return table_of(rows), scorers


def table_of(rows: list[tuple[Any, ...]]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(LABELS.names, row, strict=True)) for row in rows], schema=LABELS)


A_PATH = (table_of([(0, "/a/b", "/a/b", "ok", "/c/d", 0.5, ["/c/d"], [0.5], None, None, None, None)]), ["/a/b"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(A_PATH)
@given(label_tables())
def test_any_labels_come_back_as_they_were(run: Run, tmp_path: Path, drawn: tuple[pa.Table, list[str]]) -> None:
    table, scorers = drawn
    given_run = replace(
        run, labels=table, manifest={**run.manifest, "scorers": scorers, "primary": scorers[-1]}, path=None
    )
    label_file(given_run).save(tmp_path / "any.json")
    again = read_labels(tmp_path / "any.json")
    assert again.labels.equals(table)
    assert again.rows(scorers[0]) == given_run.rows(scorers[0])
    jsonschema.Draft7Validator(schema()).validate(again.content)


def spoilt(content: dict[str, Any], where: str) -> None:
    neuron = content["neurons"][0]
    if where == "version":
        content["version"] = 2
    elif where == "format":
        content["format"] = "labels"
    elif where == "missing":
        del content["target"]
    elif where == "score":
        neuron["labels"][0]["score"] = "high"
    elif where == "scorer":
        neuron["labels"][0]["scorer"] = "another"
    elif where == "scores":
        neuron["labels"][0]["scores"].append(1.0)
    elif where == "image":
        neuron["evidence"][0]["positive"] = len(content["images"])
    elif where == "negative":
        neuron["evidence"][0]["positive"] = -1
    elif where == "primary":
        content["primary"] = "another"
    elif where == "list":
        content["neurons"] = {}


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("version", "of version 2"),
        ("format", "not a label file"),
        ("missing", "target"),
        ("score", "score must be number"),
        ("scorer", "does not list"),
        ("scores", "as many scores"),
        ("image", "not listed"),
        ("negative", "positive must be bigger"),
        ("primary", "primary"),
        ("list", "neurons must be array"),
    ],
)
def test_a_bad_label_file_is_refused_in_one_line(run: Run, tmp_path: Path, where: str, says: str) -> None:
    content = json.loads(json.dumps(label_file(run).content))
    spoilt(content, where)
    LabelFile(content).save(tmp_path / "l.json")
    with pytest.raises(InputError, match=says) as error:
        read_labels(tmp_path / "l.json")
    assert "\n" not in str(error.value)


def test_paths_lose_their_folders_and_nothing_else_changes() -> None:
    for text, told in (
        ("/home/ada/x.png", "x.png"), ("C:\\Users\\ada\\x.png", "x.png"), ("~/photos/cats", "cats"),
        ("module:/home/ada/net.py:make", "module:net.py:make"),
        ("openai:m@http://host:80/v1", "openai:m@http://host:80/v1"),
        ("timm:vit/base", "timm:vit/base"), ("black and/or white", "black and/or white"),
        ("images/cats", "images/cats"),
        ("hf:org/name", "hf:org/name"), ("1/2 or 3 / 4", "1/2 or 3 / 4"),
    ):  # fmt: skip
        assert anonymous([text]) == [told]


# --- push and pull ---


def texts_of(folder: Path) -> str:
    """All that can be read in a pushed folder, tables spelt out."""
    import pyarrow.parquet as pq

    out = []
    for path in folder.rglob("*"):
        if path.suffix == ".parquet":
            out.append(str(pq.read_table(path).to_pylist()))
        elif path.is_file():
            out.append(path.read_bytes().decode("latin-1"))
    return "\n".join(out)


def test_a_run_comes_back_the_same_without_pictures_and_paths(run: Run, tmp_path: Path) -> None:
    push(run, tmp_path / "shared")
    told = texts_of(tmp_path / "shared")
    assert "\\xff\\xd8\\xff" not in told  # no JPEG
    assert str(run.path.parent) not in told
    assert "/home/ada" not in told
    back = pull(tmp_path / "shared", tmp_path / "back")
    for name in ("labels", "exemplars", "neurons", "concepts", "images"):
        assert getattr(back, name).equals(getattr(run, name)), name
    assert back.candidates["model"].to_pylist() == ["hf:tiny"]
    assert back.thumbnails.num_rows == 0
    assert contralens.load(back.path).neuron(1)["labels"] != {}
    assert label_file(back).content["evaluation"] == label_file(run).content["evaluation"]
    from contralens.report.html import write_report

    assert "no picture" in write_report(back).read_text()
    push(back, tmp_path / "again")  # what was pulled can be pushed on
    assert (tmp_path / "again" / "labels.json").read_bytes() == (tmp_path / "shared" / "labels.json").read_bytes()


def test_thumbnails_and_names_are_sent_only_if_wanted(run: Run, tmp_path: Path) -> None:
    push(run, tmp_path / "shared", thumbnails=True)
    assert pull(tmp_path / "shared", tmp_path / "back").thumbnails.equals(run.thumbnails)
    number = {f: f"patient {i // 3}" for i, f in enumerate(run.images["id"].to_pylist())}
    column = pa.array([number[i] for i in run.images["id"].to_pylist()])
    held = run.manifest["images"]["holdout"]
    held = {**held, "groups": ["patient 99"] * len(held["fingerprints"])}
    told = {"source": "/home/ada/patients.csv:who", "count": 9, "alone": 0, "joined": 0, "per_group": 1}
    manifest = {**run.manifest, "groups": told, "images": {**run.manifest["images"], "holdout": held}}
    push(replace(run, manifest=manifest, images=run.images.append_column("group", column)), tmp_path / "grouped")
    sent = load(tmp_path / "grouped" / "run")
    assert sent.images["group"].to_pylist()[:4] == ["group 0", "group 0", "group 0", "group 1"]
    assert sent.manifest["groups"]["source"] == "patients.csv:who"
    assert "patient 99" not in json.dumps(sent.manifest)
    push(run, tmp_path / "shared", names=False)
    told = texts_of(tmp_path / "shared")
    assert not [name for name in run.images["id"].to_pylist() if name in told]
    assert "\\xff\\xd8\\xff" not in told
    back = pull(tmp_path / "shared", tmp_path / "back")
    assert back.labels.equals(run.labels)
    assert back.images["fingerprint"].equals(run.images["fingerprint"])


def test_the_links_of_an_atlas_come_along(layers: list[Path], tmp_path: Path, command: Any) -> None:
    own = [load(path).save(tmp_path / path.name).path for path in layers]
    for path, copy in zip(layers, own, strict=True):
        assert copy is not None
        assert len(read(path)) > 0
        for times in range(2):  # the second time, what came along before is in the way of neither
            code, _, err = command("push", path, tmp_path / "shared" / path.name)
            assert code == 0, err
            code, _, err = command("pull", tmp_path / "shared" / path.name, "--out", tmp_path / "back" / path.name)
            assert code == 0, (times, err)
        assert read(tmp_path / "back" / path.name).equals(read(path))
        shared = json.loads((tmp_path / "shared" / path.name / "share.json").read_text())
        assert f"run/{RELATIONS}" in shared["files"]
        push(tmp_path / "back" / path.name, tmp_path / "again" / path.name)
        assert read(tmp_path / "again" / path.name / "run").equals(read(path))
    push(own[0], tmp_path / "bare", names=False)  # another version, which has none
    assert not (tmp_path / "bare" / "run" / RELATIONS).exists()
    back = tmp_path / "back" / layers[0].name
    assert read(pull(tmp_path / "bare", back).path).num_rows == 0
    pull(tmp_path / "shared" / layers[0].name, back)
    cache = layers[0].parent.parent / "cache"
    contralens.atlas([back, tmp_path / "back" / layers[1].name], links=True, fakes=60, cache=cache)
    with pytest.raises(InputError, match="holds an atlas"):  # now it is the user's own
        pull(tmp_path / "bare", back)
    (layers[0] / RELATIONS).rename(tmp_path / "kept")
    (layers[0] / RELATIONS).write_bytes(b"damaged")
    with pytest.raises(RunError, match="run `contralens atlas` again"):
        push(layers[0], tmp_path / "damaged")
    (tmp_path / "kept").replace(layers[0] / RELATIONS)
    assert not (tmp_path / "damaged").exists()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("flip", "differs from what was pushed"),
        ("lose", "missing"),
        ("escape", "which is not part of a run"),
        ("pickle", "which is not part of a run"),
        ("version", "has version 9"),
        ("share", "share.json cannot be read"),
        ("other", "do not hold the same labels"),
        ("nothing", "no share.json"),
    ],
)
def test_a_damaged_or_hostile_folder_is_refused(run: Run, tmp_path: Path, damage: str, says: str) -> None:
    folder = tmp_path / "shared"
    push(run, folder)
    about = json.loads((folder / "share.json").read_text())
    table = folder / "run" / "labels.parquet"
    if damage == "flip":
        data = bytearray(table.read_bytes())
        data[len(data) // 2] ^= 1
        table.write_bytes(data)
    elif damage == "lose":
        table.unlink()
    elif damage == "escape":
        about["files"]["run/../../evil.json"] = "0" * 64
    elif damage == "pickle":
        about["files"]["run/evil.pkl"] = "0" * 64
    elif damage == "version":
        about["version"] = 9
    elif damage == "other":
        import hashlib

        content = json.loads((folder / "labels.json").read_text())
        content["neurons"][0]["labels"][0]["label"] = "zebra"
        (folder / "labels.json").write_text(json.dumps(content))
        about["files"]["labels.json"] = hashlib.sha256((folder / "labels.json").read_bytes()).hexdigest()
    about["digest"] = manifest_digest(about)  # somebody who means it does so, too
    (folder / "share.json").write_text("{" if damage == "share" else json.dumps(about))
    if damage == "nothing":
        (folder / "share.json").unlink()
    with pytest.raises(InputError if damage in ("version", "nothing") else RunError, match=says):
        pull(folder, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert not (tmp_path.parent / "evil.json").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".partial")]


def test_the_commands(run: Run, tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command("export-labels", run.path, "--out", "l.json", "--pairs", 1)
    assert code == 0, err
    assert "no pictures" in out
    code, out, _ = command("import-labels", "l.json")
    assert code == 0
    assert "primary auto" in out
    rows = [row for row in finally_judged(run).to_pylist() if row["scorer"] == "auto"]
    assert json.loads(command("import-labels", "l.json", "--json")[1]) == rows
    code, out, err = command("push", run.path, "shared")
    assert code == 0, err
    assert "without pictures (--with-thumbnails)" in out
    assert "not pushed" in " ".join(command("push", "--help")[1].split())
    code, out, err = command("pull", "shared", "--out", "back")
    assert code == 0, err
    assert "without pictures" in out
    assert load("back").labels.equals(run.labels)
    assert command("show", "back", "1")[0] == 0
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for args, says in (
        (["pull", "nowhere"], "there is no folder"),
        (["pull", "shared"], "the source to pull from"),
        (["pull", "shared", "--out", "full"], "holds files"),
        (["push", run.path, "full"], "holds files"),
        (["push", run.path, "l.json"], "is a file"),
        (["push", run.path, "hf:zebra"], "hf:OWNER/NAME"),
        (["push", run.path, "hf:ada/zebra@v1"], "main branch"),
        (["import-labels", "nowhere.json"], "no label file"),
        (["export-labels", run.path, "--pairs", -1], "0 or more"),
        (["export-labels", run.path, "--out", run.path], "a folder is in the way there"),
    ):
        code, out, err = command(*args)
        assert (code, out) == (2, ""), args
        assert says in err
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


@pytest.mark.slow
def test_the_hub_with_its_real_client(run: Run, layers: list[Path], tmp_path: Path) -> None:
    """huggingface_hub against a server on loopback: create, commit, list, download, an older revision, no access."""
    pytest.importorskip("huggingface_hub")
    with hub() as server:

        def call(*args: object, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
            env = {
                **os.environ, "HF_ENDPOINT": server.url, "HF_TOKEN": token, "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1",
            }  # fmt: skip
            command = [sys.executable, "-m", "contralens", *map(str, args)]
            return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=HUNG)

        done = call("push", run.path, "hf:ada/zebra")
        assert done.returncode == 0, done.stderr
        assert server.repos["ada/zebra"]["created"]["visibility"] == "private"
        first, files = server.files("ada/zebra")
        assert f"/datasets/ada/zebra/commit/{first}" in done.stdout
        assert set(files) >= {"README.md", "labels.json", "share.json", "run/labels.parquet", "run/manifest.json"}
        assert b"\xff\xd8\xff" not in files["run/thumbnails.parquet"]
        done = call("push", run.path, "hf:ada/zebra", "--with-thumbnails", "--public")
        assert done.returncode == 0, done.stderr
        assert len(server.repos["ada/zebra"]["commits"]) == 3
        done = call("pull", "hf:ada/zebra")
        assert done.returncode == 0, done.stderr
        assert load(tmp_path / "zebra").labels.equals(run.labels)
        assert load(tmp_path / "zebra").thumbnails.num_rows > 0
        done = call("pull", f"hf:ada/zebra@{first}", "--out", "older")
        assert done.returncode == 0, done.stderr
        assert load(tmp_path / "older").thumbnails.num_rows == 0
        for args in (["push", layers[0], "hf:ada/layer"], ["pull", "hf:ada/layer"]):
            done = call(*args)
            assert done.returncode == 0, done.stderr
        assert f"run/{RELATIONS}" in server.files("ada/layer")[1]
        assert read(tmp_path / "layer").equals(read(layers[0]))
        for args, token, says in (
            (["pull", "hf:ada/none", "--out", "x"], TOKEN, "no dataset repository ada/none"),
            (["pull", "hf:ada/zebra@" + "f" * 40, "--out", "x"], TOKEN, "no such revision"),
            (["push", run.path, "hf:ada/zebra"], "hf_wrong", "hf auth login"),
        ):
            done = call(*args, token=token)
            assert done.returncode == 2, done.stdout
            assert says in done.stderr.splitlines()[-1]
            assert "Traceback" not in done.stderr
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
