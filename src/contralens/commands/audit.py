"""The command `contralens audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from contralens.checks import InputError
from contralens.commands.options import (
    Cache,
    Classes,
    Fakes,
    Groups,
    Json,
    RunBatchSize,
    RunDevice,
    RunFolder,
    RunSeed,
    Source,
    TrustCode,
    print_json,
)


def audit_command(
    run: RunFolder,
    concepts: Annotated[
        str, typer.Option(help="Expected and spurious concepts: dermoscopy, photographs, or a YAML file.")
    ],
    labeled: Annotated[
        str | None, typer.Option(help="Images to measure pruning on: one sub-folder per class, or a CSV file.")
    ] = None,
    table: Annotated[
        list[Path] | None,
        typer.Option(help="CSV file that tells the labeled images' classes or groups, repeatable (as ISIC's)."),
    ] = None,
    new_head: Annotated[
        bool,
        typer.Option("--new-head", help="Fit a new linear head without the spurious neurons on part of --labeled."),
    ] = False,
    image_column: Annotated[
        str | None, typer.Option(help="The table's column that names the image (default: found by name, or by values).")
    ] = None,
    class_column: Annotated[
        str | None,
        typer.Option(help="The table's column that holds the class (default: class, label, dx ...)."),
    ] = None,
    subgroups: Annotated[
        Path | None, typer.Option(help="CSV file of groups among them: image, then one column per kind of group.")
    ] = None,
    groups: Groups = None,
    unseen: Annotated[
        bool, typer.Option("--unseen", help="Leave out labeled images that the run's exemplars came from.")
    ] = False,
    head: Annotated[
        str | None,
        typer.Option(help="The linear layer from neurons to classes (default: found by trying; none: without)."),
    ] = None,
    scorer: Annotated[str, typer.Option(help="What scores the concepts, e.g. csp:gamma=0.5.")] = "csp",
    fdr: Annotated[float, typer.Option(help="False-discovery rate of the verdicts, above 0 and below 1.")] = 0.05,
    mode: Annotated[str, typer.Option(help="hard switches spurious neurons off, soft turns them down.")] = "hard",
    follow: Annotated[
        list[str] | None, typer.Option(help="Class whose score is followed, repeatable (default: all, at most 20).")
    ] = None,
    classes: Classes = None,
    encoder: Annotated[str | None, typer.Option(help="Another encoder than the run's, e.g. a medical one.")] = None,
    fakes: Fakes = 1000,
    images: Annotated[int, typer.Option(help="Images per neuron that influence is measured over.")] = 16,
    sample: Annotated[
        int, typer.Option(help="Unexplained neurons that are switched off too, beside all explained ones; -1 for all.")
    ] = 32,
    source: Source = None,
    cache: Cache = None,
    device: RunDevice = "cpu",
    batch_size: RunBatchSize = 32,
    seed: RunSeed = 0,
    most: Annotated[int, typer.Option(help="Neurons of each verdict shown.")] = 15,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write audit.html into the run.")] = True,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Find neurons that stand for spurious concepts.

    And for expected ones; what they do to the classes, a mask that prunes the spurious ones, and what accuracy is then.
    """
    from contralens.auditing.audit import audit
    from contralens.commands.evaluate import read_classes
    from contralens.data.runs import load
    from contralens.report.audit_page import write_audit_page
    from contralens.report.progress import bar

    if mode not in ("hard", "soft"):
        raise InputError(f"--mode must be hard or soft; got {mode!r}")
    if table and labeled is None:
        raise InputError("--table is about labeled images: say with --labeled where they are")
    if new_head and labeled is None:
        raise InputError("--new-head needs images with classes: say with --labeled where they are")
    if labeled is None and (image_column or class_column):
        raise InputError("--image-column and --class-column are about labeled images: say where with --labeled")
    given: Any = {"images": labeled, "table": list(table)} if table else labeled
    options: dict[str, Any] = {"mode": mode, "sample": None if sample < 0 else sample}
    opened = load(run, trust_code=trust_code)
    with bar(quiet=as_json) as progress:
        found = audit(
            opened, concepts, scorer=scorer, labeled=given, new_head=new_head, subgroups=subgroups, groups=groups,
            unseen=unseen, image_column=image_column, class_column=class_column,
            classes=read_classes(classes) if classes is not None else None, head=head, follow=follow or None, fdr=fdr,
            fakes=fakes, images=images, encoder=encoder, source=source, cache=cache, device=device,
            batch_size=batch_size, seed=seed, progress=progress, **options,
        )  # fmt: skip
    page = write_audit_page(load(run), found) if report else None
    if as_json:
        from contralens.data.audits import TABLES

        told = {"out": str(found.path), "page": str(page) if page else None, "manifest": found.manifest}
        told |= {name: getattr(found, name).to_pylist() for name in TABLES}
        print_json(told)
        return
    from contralens.report.audit_tables import audit_tables

    audit_tables(found, most)
    if page:
        typer.echo(f"page: {page}")
