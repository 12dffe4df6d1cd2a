"""The command `contralens verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from contralens.commands.options import (
    Cache,
    Json,
    RunBatchSize,
    RunDevice,
    RunFolder,
    RunSeed,
    Source,
    TrustCode,
    print_json,
)


def verify_command(
    run: RunFolder,
    neuron: Annotated[
        list[str] | None, typer.Argument(help="Neurons to test, by index or name (default: all that have a label).")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Another phrase to test than the scorer's labels; goes with neurons.")
    ] = None,
    editor: Annotated[
        str,
        typer.Option(help="What changes the pictures: retrieve, swap, world (auto: world or retrieve)."),
    ] = "auto",
    scorer: Annotated[str | None, typer.Option(help="Whose labels (default: the run's primary scorer).")] = None,
    images: Annotated[int, typer.Option(help="Exemplars, and contrasts, edited for each label, at most.")] = 8,
    controls: Annotated[int, typer.Option(help="Other edits that each image's is compared with.")] = 2,
    seconds: Annotated[
        float | None, typer.Option(help="Begin with no further neuron after so much time; the rest is left out.")
    ] = None,
    source: Source = None,
    cache: Cache = None,
    device: RunDevice = "cpu",
    batch_size: RunBatchSize = 32,
    seed: RunSeed = 0,
    most: Annotated[int, typer.Option(help="Labels shown.")] = 30,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write verification.html into the run.")] = True,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Test labels by changing pictures.

    Takes the concept out of exemplars, puts it into contrasts, and watches the neuron: each label ends as verified,
    refuted or untested. Goes on where it was stopped.
    """
    from contralens.data.runs import load
    from contralens.report.progress import bar
    from contralens.report.verify_page import write_verify_page
    from contralens.verifying.verify import verify

    with bar(quiet=as_json) as progress:
        found = verify(
            load(run, trust_code=trust_code), editor=editor, scorer=scorer, neurons=neuron or None, label=label,
            images=images, controls=controls, seconds=seconds, source=source, cache=cache, device=device,
            batch_size=batch_size, seed=seed, progress=progress,
        )  # fmt: skip
    page = write_verify_page(load(run), found) if report else None
    if as_json:
        told = {
            "out": str(found.path),
            "page": str(page) if page else None,
            "manifest": found.manifest,
            "labels": found.rows(),
        }
        print_json({**told, "edits": found.edits.to_pylist()})
        return
    from contralens.report.verify_tables import verify_tables

    verify_tables(found, most)
    if page:
        typer.echo(f"page: {page}")
