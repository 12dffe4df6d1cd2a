"""The command `contralens granularity`."""

from __future__ import annotations

from typing import Annotated

import typer

from contralens.commands.flags import Given, with_flags
from contralens.commands.options import Json, RunFolder, TrustCode, print_json
from contralens.settings.finished_run import Granularity
from contralens.settings.record import read


@with_flags(Granularity, without=("run",))
def granularity_command(
    given: Given,
    run: RunFolder,
    most: Annotated[int, typer.Option(help="Neurons to show; --json prints all.")] = 10,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Follow each label to broader concepts in WordNet.

    Shows where the evidence stops on the way from "zebra" to "animal".
    """
    from contralens.data.runs import load
    from contralens.evaluation.granularity import granularity

    found = granularity(load(run, trust_code=trust_code), **read(Granularity, given))
    if as_json:
        print_json(found)
        return
    from contralens.report.tables import granularity_table

    granularity_table(found, most)
