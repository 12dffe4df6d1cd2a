"""The commands `export-labels`, `import-labels`, `log`, `push` and `pull`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

import typer

from contralens.checks import counted
from contralens.commands.flags import Given, with_flags
from contralens.commands.options import Json, RunFolder, TrustCode, print_json
from contralens.errors import InputError
from contralens.settings.label import Label
from contralens.settings.record import read

NoNames = Annotated[bool, typer.Option("--no-names", help="Omit image names; content hashes stay.")]


def export_labels_command(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option(help="Output file or folder (default: RUN.labels.json next to the run).")
    ] = None,
    neuronpedia: Annotated[
        bool,
        typer.Option("--neuronpedia", help="Write a folder in Neuronpedia's export format (default: RUN.neuronpedia)."),
    ] = False,
    model: Annotated[str | None, typer.Option(help="With --neuronpedia: model name there.")] = None,
    source: Annotated[str | None, typer.Option(help="With --neuronpedia: name of the layer or SAE there.")] = None,
    pairs: Annotated[int | None, typer.Option(help="Exemplar-contrast pairs per neuron (default: all).")] = None,
    no_names: NoNames = False,
) -> None:
    """Write a run's labels as one JSON file.

    Includes scores, evidence by image name and hash, provenance and evaluation results.
    """
    from contralens.data.runs import load
    from contralens.sharing.label_files import label_file

    loaded = load(run)
    if neuronpedia:
        if pairs is not None:
            raise InputError("--pairs is about the evidence, of which --neuronpedia writes none")
        from contralens.sharing.neuronpedia import write_neuronpedia

        folder = write_neuronpedia(loaded, out or Path(f"{run.resolve()}.neuronpedia"), model=model, source=source)
        typer.echo(f"wrote {folder}: features, explanations and scores")
        return
    if model or source:
        raise InputError("--model and --source are about --neuronpedia: give that, too")
    path = out or Path(f"{run.resolve()}.labels.json")
    made = label_file(loaded, pairs=pairs, names=not no_names).save(path)
    labeled = sum(row["label"] is not None for row in made.rows())
    typer.echo(f"wrote {path}: {counted(labeled, 'label')} by {made.content['primary']}, no pictures")


def import_labels_command(
    file: Annotated[Path, typer.Argument(help="A label file.")],
    scorer: Annotated[str | None, typer.Option(help="Scorer whose labels to list (default: the primary).")] = None,
    as_json: Json = False,
) -> None:
    """Validate a label file against its schema and list its labels.

    With --json in the format of `label`.
    """
    from contralens.sharing.label_files import read_labels

    found = read_labels(file)
    rows = found.rows(scorer)
    if as_json:
        print_json(rows)
        return
    from contralens.report.tables import label_file_table

    label_file_table(found, rows)


def log_command(
    run: RunFolder,
    to: Annotated[
        Literal["tensorboard", "wandb", "fiftyone"], typer.Option(help="Which of the three gets the labels.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Log folder of TensorBoard or W&B (default: RUN.tensorboard; W&B's own choice).")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="W&B project, or FiftyOne data set (default: contralens; network and layer).")
    ] = None,
    step: Annotated[int | None, typer.Option(help="Training step of the checkpoint (TensorBoard, W&B).")] = None,
    pairs: Annotated[
        int | None,
        typer.Option(help="TensorBoard, W&B: pairs in a neuron's picture (default: 4); 0 for no pictures."),
    ] = None,
    pictured: Annotated[
        int | None,
        typer.Option(help="TensorBoard, W&B: neurons with pictures, the most confident first (default: 20)."),
    ] = None,
    source: Annotated[
        Path | None, typer.Option(help="FiftyOne: current location of the images, if they moved.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="FiftyOne: replace a data set of that name.")] = False,
    trust_code: TrustCode = False,
) -> None:
    """Log labels to TensorBoard, W&B or FiftyOne.

    TensorBoard and Weights & Biases get labels, confidence, means of the evaluation, and pictures of exemplars and
    contrasts. W&B uploads them unless WANDB_MODE=offline is set. FiftyOne gets a data set of the images that says
    which neurons each is an exemplar or a contrast of.
    """
    from contralens.data.runs import load
    from contralens.sharing.trackers import PAIRS, PICTURED, to_fiftyone, to_tensorboard, to_wandb

    about: dict[str, dict[str, object]] = {
        "--to tensorboard or wandb": {"--out": out, "--step": step, "--pairs": pairs, "--pictured": pictured},
        "--to wandb or fiftyone": {"--name": name},
        "--to fiftyone": {"--source": source, "--replace": replace or None},
    }
    for which, options in about.items():
        for flag, value in options.items():
            if value is not None and to not in which:
                raise InputError(f"{flag} goes with {which}; got --to {to}")
    if out is not None and (out / "manifest.json").exists():
        raise InputError(f"--out {out} is a run folder, which holds nothing else; name another folder")
    pairs, pictured = PAIRS if pairs is None else pairs, PICTURED if pictured is None else pictured
    loaded = load(run, trust_code=trust_code)
    if to == "tensorboard":
        folder = to_tensorboard(
            loaded, out or Path(f"{run.resolve()}.tensorboard"), step=step or 0, pairs=pairs, neurons=pictured
        )
        typer.echo(f"wrote {folder}\nto see it: tensorboard --logdir {quote(str(folder))}")
    elif to == "wandb":
        where = to_wandb(
            loaded, project=name or "contralens", step=step, pairs=pairs, neurons=pictured, folder=out
        )  # fmt: skip
        typer.echo(f"logged to {where}")
    else:
        made = to_fiftyone(loaded, name, source=source, replace=replace)
        typer.echo(f"made the FiftyOne data set {made.name!r}: {counted(len(made), 'image')}")


def push_command(
    run: RunFolder,
    dest: Annotated[str, typer.Argument(help="A folder, or hf:OWNER/NAME on the Hugging Face Hub.")],
    with_thumbnails: Annotated[
        bool, typer.Option("--with-thumbnails", help="Include thumbnails (128 px) of the evidence.")
    ] = False,
    no_names: NoNames = False,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public (default: private).")] = False,
) -> None:
    """Copy a run to a folder or the Hugging Face Hub.

    Images are not pushed; thumbnails are only on request, and image names unless --no-names is set.
    """
    from contralens.sharing.push_pull import push

    where = push(run, dest, thumbnails=with_thumbnails, names=not no_names, public=public)
    pictures = "with thumbnails of the evidence" if with_thumbnails else "without pictures (--with-thumbnails)"
    typer.echo(f"pushed to {where}, {pictures}\nto get it: contralens pull {quote(dest)} --out run")


@with_flags(Label, only=("replace",))
def pull_command(
    given: Given,
    source: Annotated[str, typer.Argument(help="A folder that `push` wrote, or hf:OWNER/NAME[@REVISION].")],
    out: Annotated[Path | None, typer.Option(help="Run folder to write (default: the source's name).")] = None,
) -> None:
    """Download a pushed run.

    Verifies every file; all other commands can then read the run.
    """
    from contralens.sharing.push_pull import pull

    run = pull(source, out, **read(Label, given))
    pictures = "" if run.thumbnails.num_rows else "; without pictures"
    typer.echo(f"{counted(run.manifest['neurons']['labeled'], 'labeled neuron')} in {run.path}{pictures}")
