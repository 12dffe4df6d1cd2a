"""The command `contralens verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contralens.commands.flags import Given, with_flags
from contralens.commands.options import Json, RunFolder, TrustCode, print_json
from contralens.settings.finished_run import Verify
from contralens.settings.record import help_of, read
from contralens.types import Progress


@with_flags(Verify, without=("run", "save"))
def verify_command(
    given: Given,
    run: RunFolder,
    neuron: Annotated[list[str] | None, typer.Argument(help=help_of(Verify, "neurons"))] = None,
    most: Annotated[int, typer.Option(help="Labels to show.")] = 30,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write verification.html into the run.")] = True,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Test labels by editing images.

    Removes the concept from exemplars, inserts it into contrasts, and measures the neuron. Each label ends as
    verified, refuted or untested. Interrupted runs resume; earlier results stay.
    """
    from contralens.data.runs import load
    from contralens.report.progress import bar
    from contralens.report.verify_page import write_verify_page
    from contralens.verifying.verify import verify

    opened = load(run, trust_code=trust_code)
    with bar(quiet=as_json) as progress:
        found = verify(opened, **read(Verify, given), neurons=neuron or None, progress=progress)
    asked = {int(opened.neuron(n)["neuron"]) for n in neuron or ()}
    page = write_verify_page(load(run), found) if report else None
    if as_json:
        told = {"out": str(found.path), "page": str(page) if page else None, "manifest": found.manifest}
        rows, edits = (
            [row for row in every if not asked or row["neuron"] in asked]
            for every in (found.rows(), found.edits.to_pylist())
        )
        print_json({**told, "labels": rows, "edits": edits})
        return
    from contralens.report.verify_tables import verify_tables

    verify_tables(found, most, asked)
    if page:
        typer.echo(f"page: {page}")


def label_test(run: Path, neuron: int, label: str, trust_code: bool, progress: Progress) -> None:
    """Put one label of one neuron to the test, for the explorer; the run's folder then holds what came of it."""
    from contralens.data.runs import load
    from contralens.verifying.verify import verify

    verify(load(run, trust_code=trust_code), neurons=[neuron], label=label, progress=progress)
