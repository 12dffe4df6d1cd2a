"""Damage to a run is told in one line that names the file; nothing that was changed is believed."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from older import as_older

import contralens
from contralens.data.audits import load_audit
from contralens.data.checked_reading import read_manifest
from contralens.data.evaluations import load_evaluation
from contralens.errors import InputError, RunError
from contralens.proposing.candidates import Candidates, load_candidates
from contralens.sharing.push_pull import pull

ODD: list[Any] = [None, True, -1, 1.5, "", "x", [], {}, [None], {"a": 1}, 10**30, float("nan")]


@pytest.fixture(scope="module")
def flips() -> Any:
    path = Path(__file__).parents[1] / "benchmarks" / "flips.py"
    spec = importlib.util.spec_from_file_location("flips", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def home(flips: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache, a run with an evaluation, an audit and maps, candidates, and a share."""
    home = tmp_path_factory.mktemp("home")
    flips.prepare(home, 60)
    proposed = [{"concept": "red", "text": "red", "neuron": 1, "name": "x/1", "place": 0, "prompt": "p", "model": "m"}]
    Candidates(["red"], proposed, [], {"proposer": "m", "prompt": "p"}).save(home / "run.candidates")
    return home


@pytest.mark.slow
def test_of_five_hundred_flipped_bits_none_is_believed_and_none_is_a_traceback(flips: Any, home: Path) -> None:
    counts, wrong = flips.measure(home, 12, 1)
    assert not wrong
    total = sum(counts.values(), type(next(iter(counts.values())))())
    assert total.total() >= 500
    assert total["told"] + total["harmless"] == total.total()
    assert total["harmless"] < 5, "an e in a number that becomes an E"


READERS: dict[str, Callable[[Path], Any]] = {
    "run/manifest.json": lambda home: contralens.load(home / "run"),
    "run/evaluation/manifest.json": lambda home: load_evaluation(home / "run"),
    "run/audit/audit.json": lambda home: load_audit(home / "run"),
    "run.candidates/candidates.json": lambda home: load_candidates(home / "run.candidates"),
    "share/share.json": lambda home: pull(home / "share", home / "pulled"),
}


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    return [at, *(place for key, one in inner for place in places(one, (*at, key)))]


def changes(content: Any) -> list[Any]:
    """The same with one member removed, or of another kind."""
    made: list[Any] = [*ODD, [content]]
    for n, place in enumerate(p for p in places(content) if p):
        for value in (ODD[n % len(ODD)], ODD[(n * 5 + 3) % len(ODD)], None, ...):
            whole = json.loads(json.dumps(content))
            holder = whole
            for key in place[:-1]:
                holder = holder[key]
            if value is ...:
                del holder[place[-1]]
            else:
                holder[place[-1]] = value
            made.append(whole)
    return made


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "format 1"])
@pytest.mark.parametrize("name", READERS)
def test_a_manifest_of_any_content_is_read_or_told_in_a_line(
    name: str, sealed: bool, home: Path, tmp_path: Path
) -> None:
    """320 of them and more: members missing, of another kind, null; a list; a text."""
    file, read, wrong, lines = tmp_path / name, 0, 0, list[str]()
    for part in ("run", "run.candidates", "share"):
        shutil.copytree(home / part, tmp_path / part)
    as_older(tmp_path / "run")
    if sealed:
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(home / "run", tmp_path / "run")
    content = json.loads(file.read_text())
    if not sealed:
        content = {key: value for key, value in content.items() if key != "digest"}
        if name.startswith("share"):
            content["version"] = 1
    for changed in changes(content):
        if changed == content:
            continue
        file.write_text(json.dumps(changed))
        shutil.rmtree(tmp_path / "pulled", ignore_errors=True)
        try:
            READERS[name](tmp_path)
            read += 1
        except (InputError, RunError) as e:  # what is no share of ours is a wrong argument
            lines.append(str(e))
            wrong += isinstance(e, InputError)
    told = len(lines)
    assert not wrong or name.startswith("share"), "damage is not a wrong argument"
    bad = [line for line in lines if "\n" in line or not (file.name in line or str(file.parent) in line)]
    assert not bad, bad
    assert told + read > 30
    assert told > 20
    if sealed and not name.startswith("run.candidates"):
        assert read == 0, "whatever was changed is not what the digest says"


def test_a_run_whose_manifest_is_readable_can_be_shown(home: Path, tmp_path: Path) -> None:
    """What the schema lets through, readers can use: of format 1, where no digest tells."""
    from contralens.report.html import write_report
    from contralens.sharing.label_files import label_file

    run = as_older(shutil.copytree(home / "run", tmp_path / "run"))
    content = json.loads((run / "manifest.json").read_text())
    used = 0
    for changed in changes(content)[::5]:
        (run / "manifest.json").write_text(json.dumps(changed))
        try:
            made = contralens.load(run)
        except RunError:
            continue
        write_report(made, tmp_path / f"page-{used}.html")
        label_file(made)
        used += 1
    assert used > 5


def test_the_line_names_the_file_and_what_to_do(home: Path, tmp_path: Path) -> None:
    run = shutil.copytree(home / "run", tmp_path / "run")
    file = run / "labels.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    with pytest.raises(RunError, match=r"run/labels\.parquet is damaged or was edited.*label again"):
        contralens.load(run)
    file.unlink()
    with pytest.raises(RunError, match=r"labels\.parquet is missing"):
        contralens.load(run)


def test_page_checksums_are_written(home: Path) -> None:
    """So that a table copied out of its folder still proves its pages."""
    import pyarrow.parquet as pq

    source = (home / "run" / "labels.parquet").read_bytes()
    found = 0
    for at in range(8, 8 * len(source), 8 * 97):
        damaged = bytearray(source)
        damaged[at // 8] ^= 1
        copy = home / "copy.parquet"
        copy.write_bytes(damaged)
        try:
            pq.read_table(copy, page_checksum_verification=True)
        except Exception:
            found += 1
    assert found > 5


def test_a_link_out_of_the_run_is_not_followed(home: Path, tmp_path: Path) -> None:
    run = shutil.copytree(home / "run", tmp_path / "run")
    (run / "images.parquet").rename(tmp_path / "images.parquet")
    (run / "images.parquet").symlink_to(tmp_path / "images.parquet")
    with pytest.raises(RunError, match="link out of"):
        contralens.load(run)


def test_what_a_manifest_lists_is_what_its_readers_ask_for(home: Path) -> None:
    made = read_manifest(home / "run" / "manifest.json", "Run", (1, 2))
    assert made["format"] == 2
    assert {"labels.json", "labels.parquet", "vectors.safetensors", "thumbnails.parquet"} <= made["files"].keys()
