"""The command `contralens match`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contralens.commands.flags import Given, with_flags
from contralens.commands.options import Json, RunFolder, TrustCode, print_json
from contralens.settings.finished_run import Match
from contralens.settings.record import help_of, read

if TYPE_CHECKING:
    from contralens.data.matchings import Matching


@with_flags(Match, without=("one", "other"))
def match_command(
    given: Given,
    one: RunFolder,
    other: Annotated[Path, typer.Argument(help=help_of(Match, "other"))],
    most: Annotated[int, typer.Option(help="Changes to list.")] = 20,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Match the neurons of two runs.

    Matches neurons by activations on the images that both runs share, or by exemplars if the images differ. Null
    neurons set the threshold. Labels are kept, renamed, split, merged, new or gone.
    """
    from contralens.data.runs import load
    from contralens.evaluation.matching import match
    from contralens.report.progress import bar

    opened = [load(run, trust_code=trust_code) for run in (one, other)]
    with bar(quiet=as_json) as progress:
        found = match(*opened, **read(Match, given), progress=progress)
    if as_json:
        print_json(found.to_dict())
        return
    from contralens.report.match_tables import match_tables

    match_tables(found, most)


def cached(one: Path, other: Path, trust_code: bool) -> Matching:
    """Which neuron is which in two run folders, for the explorer, if the cache holds what that needs.

    Raises:
        StoreError: it does not.
    """
    from contralens.data.runs import load
    from contralens.evaluation.matching import cached_match

    return cached_match(load(one, trust_code=trust_code), load(other, trust_code=trust_code))
