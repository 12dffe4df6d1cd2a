"""Labels in TensorBoard, W&B and FiftyOne, written by their real packages and read back with them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels
from PIL import Image

import contralens
from contralens.cli import main
from contralens.data.evaluations import evaluation_of
from contralens.data.final_labels import final
from contralens.data.runs import Run, load
from contralens.errors import InputError, MissingPackage, StoreError
from contralens.sharing.trackers import (
    fiftyone_samples,
    image_files,
    numbers,
    provenance,
    samples,
    to_fiftyone,
    to_tensorboard,
    to_wandb,
)


@pytest.fixture(scope="module")
def run(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A real run, evaluated."""
    folder = tmp_path_factory.mktemp("tracked")
    made = contralens.label(
        ColourNet(), discs, ColourEncoder(), [*COLOURS, "grey"], layer="relu", preprocess=to_pixels, k=4,
        out=folder / "run", cache=folder / "cache", holdout=0.3,
    )  # fmt: skip
    contralens.evaluate(
        made, metrics="audit", source=discs, encoder=ColourEncoder(), target=None, cache=folder / "cache",
        check_metrics=False,
    )  # fmt: skip
    return load(made.path)


def test_the_numbers_are_those_of_labels_and_evaluation(run: Run) -> None:
    found = numbers(run)
    rows = [row for row in final(run).rows() if row["label"] is not None]
    assert found["relu/labeled"] == len(rows) > 0
    assert found["relu/confidence"] == pytest.approx(np.mean([row["confidence"] for row in rows]))
    evaluated = evaluation_of(run.path)
    assert evaluated is not None
    for row in evaluated.summary.to_pylist():
        if row["mean"] is not None and np.isfinite(row["mean"]):
            assert found[f"relu/{row['metric']}/{row['scorer']}/mean"] == row["mean"]
    assert sum(name.endswith("/mean") for name in found) > 0


def test_tensorboard_reads_what_was_written(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    assert to_tensorboard(run, tmp_path / "logs", step=7, pairs=2, neurons=[1]) == str(tmp_path / "logs")
    read = EventAccumulator(str(tmp_path / "logs"), size_guidance={"images": 0}).Reload()
    tags = read.Tags()
    want = numbers(run)
    assert set(want) == set(tags["scalars"])
    for name, value in want.items():
        (event,) = read.Scalars(name)
        assert (event.step, event.value) == (7, pytest.approx(value, rel=1e-6))
    assert tags["images"] == ["relu/neuron 1"]
    (picture,) = read.Images("relu/neuron 1")
    shown = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)))
    assert np.array_equal(shown, np.asarray(run.plot(1, pairs=2)))
    text = read.Tensors("relu/labels/text_summary")[0].tensor_proto.string_val[0].decode()
    for row in final(run).rows():
        assert f"| {row['name']} |" in text
        assert row["label"] is None or f"| {row['label']} |" in text
    assert read.Histograms("relu/confidences")[0].histogram_value.num == want["relu/labeled"]

    writer = SummaryWriter(str(tmp_path / "training"))  # the loop's own, which stays open
    for step in (1, 2):
        to_tensorboard(run, writer, step=step, pairs=0)
    writer.add_scalar("loss", 0.5, 3)
    writer.close()
    read = EventAccumulator(str(tmp_path / "training")).Reload()
    assert [event.step for event in read.Scalars("relu/labeled")] == [1, 2]
    assert "loss" in read.Tags()["scalars"]
    assert read.Tags()["images"] == []


def test_wandb_offline_keeps_the_table_and_its_pictures(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    folder = Path(to_wandb(run, pairs=2, neurons=[0, 1], folder=tmp_path))
    assert tmp_path in folder.parents
    (table,) = folder.rglob("*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"][:4] == ["neuron", "name", "status", "label"]
    assert [row[:4] for row in content["data"]] == [
        [row[name] for name in content["columns"][:4]] for row in final(run).rows()
    ]
    assert [[cell is not None for cell in row[-2:]] for row in content["data"]] == [
        [n < 2] * 2 for n in range(len(run))
    ]
    pictures = [Image.open(file) for file in folder.rglob("*.png")]
    assert [picture.size for picture in pictures] == [(1200, 630)] * 2
    staged = [file for file in (tmp_path / "WANDB_DATA_DIR").rglob("*") if file.is_file()]  # of the table's artifact
    strips = [Image.open(file) for file in staged if file.read_bytes()[:4] == b"\x89PNG"]
    assert [strip.size for strip in strips if strip.size != (1200, 630)] == [(2 * 96, 96)] * 4
    (log,) = folder.glob("*.wandb")
    assert b"relu/labeled" in log.read_bytes()

    with wandb.init(project="training", dir=str(tmp_path), mode="offline") as live:  # the loop's own
        to_wandb(run, live, step=3, pairs=0)
        live.log({"loss": 0.5}, step=4)  # which ends step 3
        assert live.summary["relu/labeled"] == numbers(run)["relu/labeled"]


def test_samples_name_the_neurons_that_an_image_is_evidence_of(run: Run, discs: Path) -> None:
    found = list(samples(run, image_files(run, discs)))
    assert len(found) == run.images.num_rows
    assert all(file.is_file() and file.is_absolute() for file, _, _ in found)
    pairs = {
        (fields, one["neuron"], one["rank"], row["index"])
        for _, row, own in found
        for fields, some in own.items()
        for one in some
    }
    want = {
        (fields, row["neuron"], row["rank"], run.images["index"][row[side]].as_py())
        for row in run.exemplars.to_pylist()
        for side, fields in (("positive", "exemplar_of"), ("contrast", "contrast_of"))
        if row[side] >= 0
    }
    assert pairs == want
    with pytest.raises(InputError, match="none of the run's images"):
        image_files(run, _other_images(discs.parent / "others"))


def _other_images(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (9, 9), "purple").save(folder / "0.png")
    return folder


def test_fiftyones_samples_hold_the_neurons_with_labels_and_confidence(run: Run, discs: Path) -> None:
    """Real samples of the package, which need no database."""
    pytest.importorskip("fiftyone", reason="needs the extra fiftyone")
    files = image_files(run, discs)
    made = list(fiftyone_samples(run, files))
    plain = list(samples(run, files))
    assert len(made) == len(plain) == run.images.num_rows
    seen = 0
    for sample, (file, row, found) in zip(made, plain, strict=True):
        assert sample.filepath == str(file)
        assert sample.has_field("ground_truth") == (row["label"] is not None)
        for name, own in found.items():
            for one, want in zip(sample[name].classifications, own, strict=True):
                assert (one.label, one.confidence) == (want["label"] or "unlabeled", want["confidence"])
                assert (one["neuron"], one["rank"], one["activation"]) == (
                    want["neuron"], want["rank"], want["activation"],
                )  # fmt: skip
                seen += 1
    assert seen > 0


def test_fiftyone_finds_exemplars_by_their_neuron(run: Run, discs: Path) -> None:
    fo = pytest.importorskip("fiftyone", reason="needs the extra fiftyone")
    name = "contralens-test-of-trackers"
    try:
        dataset = to_fiftyone(run, name, source=discs, replace=True)
    except StoreError as e:
        pytest.skip(f"needs the database of FiftyOne (MongoDB): {e}")
    try:
        assert len(dataset) == run.images.num_rows
        for neuron in (0, 1):
            view = dataset.filter_labels("exemplar_of", fo.ViewField("neuron") == neuron)
            want = [row["positive"] for row in run.neuron(neuron)["exemplars"]]
            assert len(view) == len(set(want))
            label = final(run).neuron(neuron)["labels"][run.manifest["primary"]]["label"]
            assert {one.label for sample in view for one in sample.exemplar_of.classifications} == {label}
        assert dataset.info["made_from"] == provenance(run)
        with pytest.raises(InputError, match="already"):
            to_fiftyone(run, name, source=discs)
        assert len(to_fiftyone(run, name, source=discs, replace=True)) == run.images.num_rows
    finally:
        fo.delete_dataset(name)


@pytest.mark.parametrize("to", ["tensorboard", "wandb", "fiftyone"])
def test_a_missing_package_is_named_with_its_pip_command(
    run: Run, discs: Path, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, to, None)
    call: dict[str, Callable[[], object]] = {
        "tensorboard": lambda: to_tensorboard(run, tmp_path / "logs"),
        "wandb": lambda: to_wandb(run),
        "fiftyone": lambda: to_fiftyone(run, source=discs),
    }
    with pytest.raises(MissingPackage, match=rf"pip install 'contralens\[{to}\]'"):
        call[to]()
    assert not (tmp_path / "logs").exists()


def test_the_command_logs_and_refuses(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")

    def command(*args: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["contralens", "log", *map(str, args)])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out + said.err

    code, said = command(run.path, "--to", "tensorboard", "--out", tmp_path / "logs", "--pictured", 1)
    assert code == 0
    assert f"tensorboard --logdir {tmp_path / 'logs'}" in said
    assert list((tmp_path / "logs").glob("events.out.*"))
    assert command(run.path, "--to", "tensorbord")[0] == 2
    for given in (
        ["tensorboard", "--replace"], ["tensorboard", "--name", "mine"], ["wandb", "--source", tmp_path],
        ["fiftyone", "--step", 1], ["fiftyone", "--pairs", 4], ["fiftyone", "--pictured", 0],
    ):  # fmt: skip
        code, said = command(run.path, "--to", *given)
        assert (code, said.count("\n")) == (2, 1)
        assert given[1] in said
    code, said = command(run.path, "--to", "tensorboard", "--out", run.path)
    assert (code, "is a run folder" in said) == (2, True)
    code, said = command(run.path, "--to", "tensorboard", "--pairs", 11)
    assert code == 2
    assert said.count("\n") == 1
