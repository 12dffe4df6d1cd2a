"""The command `contralens audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contralens.commands.flags import Given, with_flags
from contralens.commands.options import Json, RunFolder, TrustCode, print_json
from contralens.errors import InputError
from contralens.settings.finished_run import Audit
from contralens.settings.record import read


@with_flags(Audit, without=("run", "save"))
def audit_command(
    given: Given,
    run: RunFolder,
    table: Annotated[
        list[Path] | None,
        typer.Option(help="CSV file with the labeled images' classes or groups, repeatable (as ISIC's)."),
    ] = None,
    most: Annotated[int, typer.Option(help="Neurons to show per verdict.")] = 15,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write audit.html into the run.")] = True,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Find neurons that stand for spurious concepts.

    Also reports each neuron's effect on class scores, a pruning mask, and the accuracy after pruning.
    """
    settings = read(Audit, given)
    if "concepts" not in settings:
        raise InputError("--concepts is missing; --help says what it takes")
    labeled = settings.get("labeled")
    if labeled is None:
        for name, value in {"table": table, **settings}.items():
            if value and name in ("table", "image_column", "class_column"):
                flag = f"--{name.replace('_', '-')}"
                raise InputError(f"{flag} is about labeled images: say with --labeled where they are")
    if table:
        settings["labeled"] = {"images": labeled, "table": table}
    from contralens.auditing.audit import audit
    from contralens.data.runs import load
    from contralens.report.audit_page import write_audit_page
    from contralens.report.progress import bar

    opened = load(run, trust_code=trust_code)
    with bar(quiet=as_json) as progress:
        found = audit(opened, **settings, progress=progress)
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
