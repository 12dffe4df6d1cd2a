"""What is under a folder that a command writes: nothing of the user's is gone, and an older run is whole or back."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels
from kept import bytes_in, small_run
from older import as_older
from patience import HUNG

import contralens
from contralens.bench.world_images import write_world
from contralens.cli import main
from contralens.data import replace_folder
from contralens.data.added_files import add_to_run
from contralens.data.evaluations import SUMMARY, VALUES, VERDICTS, Evaluation
from contralens.data.folder_kinds import RUN, look
from contralens.data.replace_folder import reserved
from contralens.data.runs import load
from contralens.demo import demo
from contralens.errors import InputError, StoreError
from contralens.proposing.candidates import Candidates, claimed
from contralens.sharing.push_pull import pull, push

FORK = multiprocessing.get_context("fork")


def label(images: Path, out: Path, **options: Any) -> contralens.Run:
    given: dict[str, Any] = {"layer": "relu", "preprocess": to_pixels, "k": 4, "cache": out.parent / "cache", **options}
    return contralens.label(ColourNet(), images, ColourEncoder(), list(COLOURS), out=out, **given)


def evaluated(run: Path) -> None:
    Evaluation({"scorers": ["csp"]}, *(kind.empty_table() for kind in (VALUES, SUMMARY, VERDICTS))).save(run)


def refused(job: Callable[[], object], folder: Path, match: str) -> None:
    """The job ends in one line that says `match`, and everything in the folder is as it was."""
    before = bytes_in(folder)
    with pytest.raises(InputError, match=match) as said:
        job()
    assert "\n" not in str(said.value)
    assert bytes_in(folder) == before


def web_app(folder: Path) -> Path:
    """A folder of the user's with every name that tells one of ours."""
    folder.mkdir(parents=True)
    for name in ("manifest.json", "share.json", "contralens-export.json", "comparison.json", "world.json"):
        (folder / name).write_text('{"name": "my site", "format": 1}')
    (folder / "thesis.tex").write_text("years of work")
    return folder


def test_a_folder_with_somebody_elses_manifest_is_not_replaced(discs: Path, tmp_path: Path) -> None:
    site = web_app(tmp_path / "site")
    refused(lambda: label(discs, site), site, "holds files but no run, the first is comparison.json")
    refused(lambda: small_run().save(site), site, "holds files but no run")
    shared = push(small_run(), tmp_path / "shared")
    refused(lambda: pull(shared, site), site, "holds files but no run")
    refused(lambda: push(small_run(), site), site, "holds files but no pushed run")
    refused(lambda: contralens.compare([small_run()], ["semanticlens", "csp"]).save(site), site, "no comparison")
    refused(lambda: write_world(site, 1, 2), site, "no rendered world")
    from contralens.explorer.export import export

    run = small_run().save(tmp_path / "run")
    refused(lambda: export([run.path or ""], site), site, "holds files but no export")


def test_an_input_is_never_written_over(discs: Path, tmp_path: Path) -> None:
    run = small_run().save(tmp_path / "run").path
    assert run is not None
    (run / "photos").mkdir()
    for picture in discs.glob("red/*.png"):
        (run / "photos" / picture.name).write_bytes(picture.read_bytes())
    refused(lambda: label(run / "photos", run), run, "contains .*photos, which is an input")
    refused(lambda: label(run / "photos", run / "photos"), run, "holds files but no run, the first is 000.png")
    refused(lambda: label(run / "photos", run / "photos" / "run"), run, "lies in .*photos, which is an input")
    weights = run / "weights.safetensors"
    weights.write_bytes(b"")
    given: dict[str, Any] = {"layer": "layer4", "checkpoint": weights, "cache": tmp_path / "cache"}
    job = lambda: contralens.label("torchvision:resnet18", discs, ColourEncoder(), ["red"], out=run, **given)  # noqa: E731
    refused(job, run, "contains .*weights.safetensors, which is an input")
    shared = Path(push(small_run(), tmp_path / "shared"))
    refused(lambda: pull(shared, shared / "run"), shared, "lies in .*shared, which is an input")
    refused(lambda: push(load(shared / "run"), shared), shared, "contains .*run, which is an input")


def test_labeling_again_keeps_what_others_added(discs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    label(discs, run)
    evaluated(run)
    add_to_run(run, {"maps.parquet": b"maps", "report.html": b"page"})
    notes = tmp_path / "run.notes.jsonl"
    notes.write_text("{}\n")
    before = bytes_in(run)
    label(discs, run)  # the same again: nothing is lost, nothing is asked
    assert bytes_in(run) == before
    refused(lambda: label(discs, run, k=3), run, "holds evaluation and maps, made of the labels .*--replace")
    (run / "own.txt").write_text("mine")
    refused(lambda: label(discs, run, k=3, replace=True), run, "holds own.txt, which contralens did not write")
    (run / "own.txt").unlink()
    (run / "empty").mkdir()
    refused(lambda: label(discs, run, k=3, replace=True), run, "holds empty/, which contralens did not write")
    (run / "empty").rmdir()
    label(discs, run, k=3, replace=True)
    assert not (run / "evaluation").exists()
    assert notes.read_text() == "{}\n"


def test_an_edited_label_is_not_lost(discs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    label(discs, run)
    (run / "labels.json").write_text("[]")
    refused(lambda: label(discs, run), run, "holds labels.json, which is not as contralens wrote it")
    label(discs, run, replace=True)
    assert (run / "labels.json").read_text() != "[]"
    evaluated(run)
    (run / "evaluation" / "note.txt").write_text("mine")
    refused(lambda: evaluated(run), run, "holds note.txt, which contralens did not write")
    add_to_run(run, {"report.html": b"page"})
    (run / "report.html").write_text("edited")
    refused(lambda: add_to_run(run, {"report.html": b"new"}), run, "is not as contralens wrote it")


def test_what_would_be_lost_is_said_before_anything_is_computed(discs: Path, tmp_path: Path) -> None:
    site = web_app(tmp_path / "site")
    cache = tmp_path / "cache"
    for out in (site, tmp_path / "cache"):
        cache.mkdir(exist_ok=True)
        (cache / "mine").write_text("")
        refused(lambda out=out: label(discs, out, cache=cache), tmp_path, "holds files but no run")  # type: ignore[misc]


def test_through_a_link_what_it_points_at_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "run"
    link.symlink_to(tmp_path / "disk")
    assert small_run().save(link).path == link
    assert link.is_symlink()
    small_run(1).save(link)
    assert link.is_symlink()
    assert load(tmp_path / "disk").labels.equals(load(link).labels)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "later")
    small_run().save(dangling)
    assert dangling.is_symlink()
    assert load(tmp_path / "later").labels.equals(small_run().labels)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "to-file").symlink_to(tmp_path / "file")
    refused(lambda: small_run().save(tmp_path / "to-file"), tmp_path, "is a file")


@pytest.mark.parametrize("part", ["labels.parquet", "evaluation"])
def test_a_link_inside_a_run_is_not_followed(tmp_path: Path, part: str) -> None:
    run = small_run().save(tmp_path / "run").path
    assert run is not None
    evaluated(run)
    (run / part).rename(tmp_path / "elsewhere")
    (run / part).symlink_to(tmp_path / "elsewhere")
    refused(lambda: small_run(1).save(run), tmp_path, f"holds {part}")


def test_an_older_format_is_replaced_only_if_it_holds_nothing_else(tmp_path: Path) -> None:
    run = small_run().save(tmp_path / "run").path
    assert run is not None
    told = json.loads((run / "manifest.json").read_text())
    del told["digest"], told["files"]
    (run / "manifest.json").write_text(json.dumps({**told, "format": 1}))
    (run / "report.html").write_text("written by 0.1.0")
    assert load(run).manifest["format"] == 1
    (run / "own.txt").write_text("mine")
    refused(lambda: small_run(1).save(run), run, "holds own.txt")
    (run / "own.txt").unlink()
    (run / "mapsXparquet").write_text("mine")
    refused(lambda: small_run(1).save(run), run, "holds mapsXparquet")
    (run / "mapsXparquet").unlink()
    (run / "maps.parquet").write_text("added by 0.1.0")
    refused(lambda: small_run(1).save(run), run, "holds maps")
    (run / "maps.parquet").unlink()
    evaluated(run)
    refused(lambda: small_run(1).save(run), run, "holds evaluation")
    small_run(1).save(run, replace=True)
    assert load(run).manifest["format"] == 2


def die_at(call: int, job: Callable[[], object]) -> None:
    """Do the job in a child that dies at its `call`-th rename of a folder; the system exchanges none."""

    def run() -> None:
        renames = 0
        rename = os.rename

        def counted(one: Any, two: Any) -> None:
            nonlocal renames
            renames += 1
            if renames == call:
                os._exit(9)
            rename(one, two)

        replace_folder.exchange = lambda *_: False
        replace_folder.os.rename = counted
        job()

    child = FORK.Process(target=run)
    child.start()
    child.join(HUNG)
    assert child.exitcode == 9


def test_an_older_run_left_under_a_hidden_name_comes_back(tmp_path: Path) -> None:
    run = small_run().save(tmp_path / "run").path
    assert run is not None
    before = bytes_in(run)
    die_at(2, lambda: small_run(1).save(run))
    assert not run.exists()
    assert load(run).labels.equals(small_run().labels)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert bytes_in(run) == before
    die_at(2, lambda: small_run(1).save(run))
    with reserved(run, RUN):  # whoever writes next finds the older run, not nothing
        assert bytes_in(run) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_the_first_version_left_is_restored_and_swept(tmp_path: Path) -> None:
    hidden = small_run().save(tmp_path / ".partial-old-abcd1234" / "run").path
    small_run(1).save(tmp_path / ".partial-run-abcd1234")
    assert hidden is not None
    assert load(tmp_path / "run").labels.equals(small_run().labels)
    small_run().save(tmp_path / ".partial-old-abcd1234" / "run")
    small_run(1).save(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert load(tmp_path / "run").labels.equals(small_run(1).labels)


def test_what_came_while_labels_were_made_is_not_deleted(tmp_path: Path) -> None:
    run = small_run().save(tmp_path / "run").path
    assert run is not None

    def overtaken() -> None:
        with reserved(run, RUN) as place, place.filled() as made:
            (made / "x").write_text("")
            (run / "late.txt").write_text("mine")

    with pytest.raises(InputError, match=r"holds late\.txt"):
        overtaken()
    assert (run / "late.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_second_process_says_so_and_computes_nothing(discs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = (
        "import contralens, sys; from contralens.data.replace_folder import reserved;"
        "from contralens.data.folder_kinds import RUN;"
        f"held = reserved({str(run)!r}, RUN); held.__enter__(); print('held', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    cache = tmp_path / "cache"
    with pytest.raises(StoreError, match=r"another process is writing .*run"):
        label(discs, run, cache=cache)
    assert not cache.exists()
    first.kill()  # its lock goes with it
    first.wait(HUNG)
    label(discs, run, cache=cache)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "run"]


def test_one_of_many_wins_and_no_lock_file_stays(tmp_path: Path) -> None:
    def one(number: int) -> None:
        try:
            with reserved(tmp_path / "run", RUN) as place, place.filled() as made:
                (made / "who").write_text(str(number))
        except (InputError, StoreError):  # another one writes, or has written
            os._exit(2)
        os._exit(0)

    many = [FORK.Process(target=one, args=(number,)) for number in range(16)]
    for child in many:
        child.start()
    for child in many:
        child.join(HUNG)
    assert {child.exitcode for child in many} <= {0, 2}
    assert 0 in {child.exitcode for child in many}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_every_file_of_ours_is_listed(tmp_path: Path) -> None:
    run = small_run().save(tmp_path / "run").path
    assert run is not None
    evaluated(run)
    add_to_run(run, {"maps.parquet": b"maps"})
    held = look(run, RUN)
    assert (held.foreign, held.changed, held.parts) == ([], [], ["evaluation", "maps"])
    assert held.own == set(bytes_in(run))


def test_a_world_keeps_files_that_it_did_not_render(tmp_path: Path) -> None:
    write_world(tmp_path / "w", 1, 4)
    (tmp_path / "w" / "images" / "mine.png").write_bytes(b"mine")
    (tmp_path / "w" / "thesis.tex").write_text("mine")
    write_world(tmp_path / "w", 1, 2)
    there = bytes_in(tmp_path / "w")
    assert sorted(name for name in there if name.startswith("images/")) == [
        "images/00000.png", "images/00001.png", "images/mine.png",
    ]  # fmt: skip
    assert there["thesis.tex"] == b"mine"
    (tmp_path / "w" / "vocabulary.txt").write_text("my words")
    refused(lambda: write_world(tmp_path / "w", 1, 3), tmp_path / "w", "vocabulary.txt is not as contralens wrote it")


def test_proposing_changes_no_file_that_is_not_its_own(tmp_path: Path) -> None:
    run = small_run().save(tmp_path / "run").path
    assert run is not None
    home = tmp_path / "run.candidates"
    compared = contralens.compare([run], ["semanticlens", "csp"])
    ask = lambda folder: contralens.propose(run, "captions:none.txt", folder=folder)  # noqa: E731
    refused(lambda: ask(run), tmp_path, "is an input")
    refused(lambda: compared.save(run), tmp_path, "holds files but no comparison")
    refused(lambda: ask(run / "candidates"), tmp_path, "lies in .*run, which is an input")
    Candidates(["red"], [], [], {}).save(home)
    edited = json.loads((home / "candidates.json").read_text())
    (home / "candidates.json").write_text(json.dumps({**edited, "concepts": ["red", "my own"]}))
    refused(lambda: ask(home), tmp_path, "candidates.json is not as `contralens propose` wrote it")
    with claimed(tmp_path / "other"):
        told = []
        other = threading.Thread(target=lambda: told.append(said(lambda: ask(tmp_path / "other"))))
        other.start()
        other.join(HUNG)
    assert "another process is writing" in told[0]


def said(job: Callable[[], object]) -> str:
    try:
        job()
    except StoreError as e:
        return str(e)
    return ""


def test_the_command_line_asks_for_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    shared = push(small_run(), tmp_path / "shared")
    run = small_run(1).save(tmp_path / "run").path
    assert run is not None
    evaluated(run)

    def command(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["contralens", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0)

    assert command("pull", shared, "--out", str(run)) == 2
    assert "holds evaluation" in capsys.readouterr().err
    assert command("pull", shared, "--out", str(run), "--replace") == 0
    assert not (run / "evaluation").exists()


def test_results_are_not_written_over_somebody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_world(tmp_path / "w", 1, 2)
    (tmp_path / "demo.json").write_text("{}")
    refused(lambda: demo(tmp_path, worlds=[1], images=40), tmp_path, "demo.json is not as contralens wrote it")
    monkeypatch.setattr(sys, "argv", ["contralens", "bench", "world", "--out", str(tmp_path / "w")])
    before = bytes_in(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert bytes_in(tmp_path) == before


def test_pages_of_a_run_without_digests_are_replaced_also_after_other_additions(tmp_path: Path) -> None:
    """0.1 listed no report and no audit page; `maps` of this version writes a list without them."""
    run = small_run().save(tmp_path / "run").path
    assert run is not None
    as_older(run)
    for page in ("report.html", "audit.html"):
        (run / page).write_text("<p>of 0.1</p>", encoding="utf-8")
    add_to_run(run, {"maps.parquet": b"maps"})
    add_to_run(run, {"report.html": b"<p>new</p>", "audit.html": b"<p>new</p>"})
    assert (run / "report.html").read_text(encoding="utf-8") == "<p>new</p>"
    (run / "audit.html").write_text("<p>edited</p>", encoding="utf-8")
    with pytest.raises(InputError, match="is not as contralens wrote it"):
        add_to_run(run, {"audit.html": b"<p>newer</p>"})
