"""The command `contralens granularity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contralens.commands.flags import Given, with_flags
from contralens.commands.options import Json, RunFolder, TrustCode, print_json
from contralens.settings.propose import Propose
from contralens.settings.record import read


@with_flags(Propose, only=("neurons", "device", "cache"))
def granularity_command(
    given: Given,
    run: RunFolder,
    scorer: Annotated[str, typer.Option(help="Scorer for the concepts along the chain.")] = "csp",
    sense: Annotated[
        int | None, typer.Option(help="Meaning of the label's noun, 0 the most frequent (default: by its gloss).")
    ] = None,
    wordnet: Annotated[
        Path | None, typer.Option(help="Folder with WordNet's files (default: from contralens[wordnet] or the system).")
    ] = None,
    most: Annotated[int, typer.Option(help="Neurons to show; --json prints all.")] = 10,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Follow each label to broader concepts in WordNet.

    Shows where the evidence stops on the way from "zebra" to "animal".
    """
    from contralens.data.runs import load
    from contralens.evaluation.granularity import granularity

    opened = load(run, trust_code=trust_code)
    found = granularity(opened, **read(Propose, given), scorer=scorer, sense=sense, wordnet=wordnet)
    if as_json:
        print_json(found)
        return
    from contralens.report.tables import granularity_table

    granularity_table(found, most)
