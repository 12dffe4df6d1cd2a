"""The command `contralens contrast`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contralens.commands.flags import Given, with_flags
from contralens.commands.options import Json, RunFolder, TrustCode, print_json
from contralens.settings.finished_run import ContrastClasses
from contralens.settings.record import read


@with_flags(ContrastClasses, without=("run", "a", "b"))
def contrast_command(
    given: Given,
    run: RunFolder,
    classes: Annotated[
        tuple[str, str], typer.Option(help='The two classes; "*" as the second means all other images.')
    ],
    most: Annotated[int, typer.Option(help="Neurons to list.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Page to write (default: contrast-A-B.html in the run).")] = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write the page.")] = True,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Show which neurons separate two classes, and by what.

    Reports the area under the ROC curve per neuron with its interval, corrected over neurons. Contrasts come from
    the other class, so labels name what sets one class apart.
    """
    from contralens.data.runs import load
    from contralens.evaluation.class_contrast import contrast_classes
    from contralens.report.contrast_page import write_contrast_page
    from contralens.report.progress import bar

    opened = load(run, trust_code=trust_code)
    with bar(quiet=as_json) as progress:
        found = contrast_classes(opened, *classes, **read(ContrastClasses, given), progress=progress)
    page = write_contrast_page(opened, found, out) if report else None
    if as_json:
        print_json({**found.to_dict(), "page": str(page) if page else None})
        return
    from contralens.report.contrast_tables import contrast_tables

    contrast_tables(found, most)
    if page:
        typer.echo(f"page: {page}")
