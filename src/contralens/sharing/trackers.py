"""A run's labels, numbers and pictures in TensorBoard, Weights & Biases and FiftyOne, by their own packages.

Each takes a new place or one that is open already: a `SummaryWriter`, a W&B run, a FiftyOne data set. So a training
loop can log the labels of each checkpoint beside its loss. Labels are those as finally judged. Pictures are the run's
thumbnails; only FiftyOne needs the images themselves. Needs no torch before TensorBoard is asked for.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from contralens.checks import distinct, first_line, require, whole
from contralens.data.card import card
from contralens.data.evaluations import evaluation_of
from contralens.data.final_labels import CHANCE, final
from contralens.data.image_sets import FileImages
from contralens.data.images import images as image_set
from contralens.data.runs import Run
from contralens.data.table_folders import plain
from contralens.data.trust import check_named
from contralens.errors import ContralensError, InputError, StoreError
from contralens.pages import markdown_cell
from contralens.sharing.local_paths import anonymous

PAIRS, PICTURED = 4, 20
"""Exemplars, each with its contrast, in a neuron's picture; neurons with a picture."""
SIDE = 96
"""Pixels of an exemplar in a row of them."""
COLUMNS = ("neuron", "name", "status", "label", "confidence", "score", "fdr", "verified")
SIDES = ("positive", "contrast")
AT_ONCE = 1000
"""Samples that FiftyOne gets at a time."""


def numbers(run: Run) -> dict[str, float]:
    """What there is to plot, by name: counts, the mean confidence, and the mean of each metric with its 95 % interval.

    >>> import contralens
    >>> found = numbers(contralens.load("run"))
    >>> found["block3/labeled"], 0 <= found["block3/confidence"] <= 1
    (64.0, True)
    """
    layer = run.manifest["target"]["layer"]
    rows = final(run).rows()
    labeled = [row for row in rows if row["label"] is not None]
    out = {"labeled": len(labeled), "rejected": sum(row["status"] == CHANCE for row in rows)}
    sure = [row["confidence"] for row in labeled if row["confidence"] is not None]
    if sure:
        out["confidence"] = float(np.mean(sure))
    evaluated = evaluation_of(run.path)
    for row in [] if evaluated is None else evaluated.summary.to_pylist():
        for value in ("mean", "low", "high"):
            if plain(row[value]) is not None:
                out["/".join(filter(None, (row["metric"], row["scorer"], value)))] = row[value]
    return {f"{layer}/{name}": float(value) for name, value in out.items()}


def to_tensorboard(
    run: Run, into: Any, *, step: int = 0, pairs: int = PAIRS, neurons: int | Sequence[int] = PICTURED
) -> str:
    """Write labels (a text), numbers (scalars), confidences (a histogram) and pictures as TensorBoard shows them.

    Args:
        run: a finished run.
        into: the log folder, or an open `torch.utils.tensorboard.SummaryWriter`.
        step: of training, where the labels of several checkpoints follow each other.
        pairs: exemplars in a neuron's picture, each above its contrast; 0 for no pictures.
        neurons: how many get a picture, the surest first; or their indices.

    Returns:
        The log folder.

    Raises:
        MissingPackage: TensorBoard is not installed.
        InputError: no such neuron.

    >>> import contralens
    >>> to_tensorboard(contralens.load("run"), "logs", neurons=[5])
    'logs'
    """
    step, pictured = whole("step", step, 0), _pictured(run, pairs, neurons)
    require("tensorboard", "tensorboard")
    board = require("torch.utils.tensorboard", "tensorboard")
    own = isinstance(into, str | Path)
    writer = board.SummaryWriter(str(into)) if own else into
    layer, rows = run.manifest["target"]["layer"], final(run).rows()
    for name, value in numbers(run).items():
        writer.add_scalar(name, value, step)
    sure = [row["confidence"] for row in rows if row["confidence"] is not None and row["label"] is not None]
    if sure:
        writer.add_histogram(f"{layer}/confidences", np.asarray(sure), step, bins=np.linspace(0, 1, 21))
    writer.add_text(f"{layer}/labels", _markdown(rows), step)
    writer.add_text(f"{layer}/made from", "\n".join(f"- {k}: {v}" for k, v in provenance(run).items()), step)
    for neuron in pictured:
        shown = np.asarray(card(run, neuron, pairs))
        writer.add_image(f"{layer}/neuron {neuron}", shown, step, dataformats="HWC")
    writer.flush()
    if own:
        writer.close()
    return str(writer.log_dir)


def to_wandb(
    run: Run, into: Any = None, *, project: str = "contralens", step: int | None = None, pairs: int = PAIRS,
    neurons: int | Sequence[int] = PICTURED, folder: str | Path | None = None,
) -> str:  # fmt: skip
    """Log a table of all labels with pictures, and the numbers, to Weights & Biases.

    W&B sends them to its server unless WANDB_MODE=offline is set: labels, numbers, provenance without folders,
    thumbnails (128 px) of the pictured neurons; no names of images.

    Args:
        run: a finished run.
        into: an open W&B run; by default a new one, finished at the end.
        project: of a new W&B run.
        step: of training, where labels of several checkpoints are logged to one W&B run.
        pairs: exemplars in a neuron's pictures, and contrasts; 0 for no pictures.
        neurons: how many get pictures, the surest first; or their indices.
        folder: where W&B keeps its files; by default where it chooses.

    Returns:
        The address of the W&B run, or of an offline one its folder.

    Raises:
        MissingPackage: W&B is not installed.
        StoreError: W&B refused it, for example as nobody is logged in.
        InputError: no such neuron.
    """
    pictured = _pictured(run, pairs, neurons)
    wandb = require("wandb", "wandb")
    table = wandb.Table(columns=[*COLUMNS, "exemplars", "contrasts"])
    for row in final(run).rows():
        strips = [_strip(run, row["neuron"], side, pairs) if row["neuron"] in pictured else None for side in SIDES]
        values = [plain(row)[name] for name in COLUMNS]
        table.add_data(*values, *(None if strip is None else wandb.Image(strip) for strip in strips))
    layer, about = run.manifest["target"]["layer"], provenance(run)
    try:
        live = into
        if into is None:
            where = None if folder is None else str(folder)
            live = wandb.init(project=project, name=f"{about['target']} {layer}", config=about, dir=where)
        cards = [wandb.Image(card(run, neuron, pairs), caption=f"neuron {neuron}") for neuron in pictured]
        shown = {f"{layer}/neurons": cards} if cards else {}
        live.log({f"{layer}/labels": table, **shown, **numbers(run)}, step=step)
        told = live.url or str(Path(live.dir).parent)
        if into is None:
            live.finish()
    except wandb.Error as e:
        raise StoreError(
            f"Weights & Biases: {first_line(e)}; log in with `wandb login`, or set WANDB_MODE=offline"
        ) from e
    return str(told)


def to_fiftyone(run: Run, into: Any = None, *, source: Any = None, replace: bool = False) -> Any:
    """A FiftyOne data set with one sample per image: the neurons of which it is an exemplar or a contrast.

    Fields of a sample are `exemplar_of` and `contrast_of` (`fiftyone.Classifications`, for runs with crops
    `fiftyone.Detections`): each holds a neuron's `label` and `confidence` and, of our own, `neuron`, `name`, `rank` and
    `activation`. `ground_truth` holds the class of an image that has one. The info of the data set says how the labels
    were made and what was measured. The data set persists; no app has to run.

    Args:
        run: a finished run, whose images are files.
        into: name of a new data set (by default made of the network and layer), or an empty `fiftyone.Dataset`.
        source: where the run's images are, if they moved.
        replace: also replace a data set of that name.

    Returns:
        The `fiftyone.Dataset`.

    Raises:
        MissingPackage: FiftyOne is not installed.
        InputError: there is a data set of that name, or the images are no files.
        StoreError: FiftyOne's database does not start.
    """
    files = image_files(run, source)
    fo = require("fiftyone", "fiftyone")
    about = provenance(run)
    name = into if isinstance(into, str) else f"contralens {about['target']} {about['layer']}"
    dataset = into
    try:
        if into is None or isinstance(into, str):
            if fo.dataset_exists(name) and not replace:
                raise InputError(f"FiftyOne has a data set {name!r} already; choose another name, or replace it")
            dataset = fo.Dataset(name, persistent=True, overwrite=replace)
        made = fiftyone_samples(run, files)
        while batch := list(islice(made, AT_ONCE)):
            dataset.add_samples(batch, dynamic=True, progress=False)
    except require("fiftyone.core.config", "fiftyone").FiftyOneConfigError as e:
        raise StoreError(f"FiftyOne has no database: {first_line(e)}") from e
    dataset.info = plain({"made_from": about, "numbers": numbers(run)})
    dataset.save()
    return dataset


def fiftyone_samples(run: Run, files: Mapping[str, Path]) -> Iterator[Any]:
    """The samples of `to_fiftyone`, in no data set yet: these need no database."""
    fo = require("fiftyone", "fiftyone")
    for file, row, found in samples(run, files):
        sample = fo.Sample(filepath=str(file))
        if row["label"] is not None:
            sample["ground_truth"] = fo.Classification(label=str(row["label"]))
        for name, own in found.items():
            sample[name] = _field(fo, own, boxed=bool(run.manifest.get("crop")))
        yield sample


def samples(
    run: Run, files: Mapping[str, Path]
) -> Iterator[tuple[Path, dict[str, Any], dict[str, list[dict[str, Any]]]]]:
    """Of each image that is there: its file, its row of the run's images, and the neurons that it is evidence of.

    >>> import contralens
    >>> run = contralens.load("run")
    >>> file, row, found = next(s for s in samples(run, image_files(run)) if "exemplar_of" in s[2])
    >>> file.is_file(), sorted(found["exemplar_of"][0])
    (True, ['activation', 'box', 'confidence', 'label', 'name', 'neuron', 'rank'])
    """
    labels = {row["neuron"]: row for row in final(run).rows()}
    by_image: dict[int, dict[str, list[dict[str, Any]]]] = {}
    for row in run.exemplars.to_pylist():
        own = labels.get(row["neuron"])
        if own is None:
            continue
        for side, fields, activation in (
            ("positive", "exemplar_of", "activation"), ("contrast", "contrast_of", "contrast_activation"),
        ):  # fmt: skip
            if row[side] >= 0:
                by_image.setdefault(row[side], {}).setdefault(fields, []).append({
                    "neuron": row["neuron"], "name": own["name"], "label": own["label"],
                    "confidence": own["confidence"], "rank": row["rank"], "activation": row[activation],
                    "box": row.get(f"{side}_box"),
                })  # fmt: skip
    for i, row in enumerate(run.images.to_pylist()):
        if row["fingerprint"] in files:
            yield files[row["fingerprint"]], row, by_image.get(i, {})


def image_files(run: Run, source: Any = None) -> dict[str, Path]:
    """Content fingerprint -> file of the run's images.

    Raises:
        InputError: they are not files, or the folder holds none of them.

    >>> import contralens
    >>> len(image_files(contralens.load("run"))) >= contralens.load("run").images.num_rows
    True
    """
    if source is None:
        source = run.manifest["images"].get("source") or run.manifest["images"]["name"]
        check_named(run, "images", source, "say with --source where they are")
    try:
        found = image_set(source)
    except (ContralensError, TypeError) as e:
        raise InputError(f"the run's images cannot be opened ({first_line(e)}); give their folder with --source") from e
    if not isinstance(found, FileImages):
        raise InputError("the run's images are not files, which FiftyOne needs; give a folder of them with --source")
    wanted = set(run.images["fingerprint"].to_pylist())
    files = {f: file for f, file in zip(found.fingerprints(), found.files, strict=True) if f in wanted}
    if not files:
        raise InputError(f"{found.name} holds none of the run's images; give their folder with --source")
    return files


def provenance(run: Run) -> dict[str, Any]:
    """How the labels were made, in plain values, without folders of this machine."""
    m = run.manifest
    out = {
        "target": m["target"]["name"], "layer": m["target"]["layer"], "encoder": m["encoder"]["name"],
        "images": m["images"]["name"], "image_count": m["images"]["count"], "concepts": m["vocabulary"]["concepts"],
        "scorer": m["primary"], "contralens": m.get("contralens", "unknown"),
        **{name: m.get(name) for name in ("k", "seed", "ranking")},
    }  # fmt: skip
    return {key: value for key, value in anonymous(plain(out)).items() if value is not None}


def _pictured(run: Run, pairs: int, neurons: int | Sequence[int]) -> list[int]:
    """Neurons that get pictures: those given, or so many of the labeled ones, the surest first."""
    pairs = whole("pairs", pairs, 0, 10)
    rows = [row for row in final(run).rows() if row["label"] is not None]
    if isinstance(neurons, int) and not isinstance(neurons, bool):
        rows.sort(key=lambda row: (-(row["confidence"] or 0.0), -(row["score"] or 0.0)))
        chosen = [row["neuron"] for row in rows[: whole("neurons", neurons, 0)]]
    else:
        chosen = [run.neuron(neuron)["neuron"] for neuron in distinct("neurons", neurons)]
    return chosen if pairs and run.thumbnails.num_rows else []


def _strip(run: Run, neuron: int, side: str, pairs: int) -> Image.Image | None:
    """A neuron's exemplars or contrasts in a row, from the first; None where there is none."""
    found = [run.thumbnail(row[side]) for row in run.neuron(neuron)["exemplars"][:pairs] if row[side] >= 0]
    pictures = [Image.open(io.BytesIO(jpeg)).convert("RGB").resize((SIDE, SIDE)) for jpeg in found if jpeg]
    if not pictures:
        return None
    out = Image.new("RGB", (SIDE * len(pictures), SIDE))
    for i, picture in enumerate(pictures):
        out.paste(picture, (SIDE * i, 0))
    return out


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    def cell(value: Any) -> str:
        text = f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)
        return markdown_cell(text)

    lines = ["| " + " | ".join(cell(row[name]) for name in COLUMNS[1:]) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(COLUMNS[1:]) + " |", "|" + "---|" * len(COLUMNS[1:]), *lines])


def _field(fo: Any, found: Sequence[Mapping[str, Any]], boxed: bool) -> Any:
    """Neurons of a sample as a field of FiftyOne: in a run with crops each with its box, or the whole picture."""
    made = []
    for one in found:
        own = plain({name: one[name] for name in ("confidence", "neuron", "name", "rank", "activation")})
        own |= {"label": one["label"] or "unlabeled"}
        if boxed:
            left, top, right, bottom = one["box"] or (0.0, 0.0, 1.0, 1.0)
            made.append(fo.Detection(bounding_box=[left, top, right - left, bottom - top], **own))
        else:
            made.append(fo.Classification(**own))
    return fo.Detections(detections=made) if boxed else fo.Classifications(classifications=made)
