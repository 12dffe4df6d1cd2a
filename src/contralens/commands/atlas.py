"""The command `contralens atlas`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contralens.commands.flags import Given, with_flags
from contralens.commands.options import Json, TrustCode, print_json
from contralens.errors import InputError
from contralens.settings.finished_run import AtlasOf
from contralens.settings.record import help_of, read


@with_flags(AtlasOf, without=("runs",))
def atlas_command(
    given: Given,
    runs: Annotated[list[Path], typer.Argument(help=help_of(AtlasOf, "runs"))],
    search: Annotated[str | None, typer.Option(help="List neurons of all layers whose label or name holds it.")] = None,
    sort: Annotated[
        str | None,
        typer.Option(help="With --search: by confidence, depth, score, maximum, ... (default: confidence)."),
    ] = None,
    top: Annotated[int, typer.Option(help="Rows listed of each kind.")] = 15,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Compare a network's layers: labels, concepts, edges.

    Labels by layer, where concepts first appear, and which neurons feed which. Reads the runs that `contralens
    label --layer all` wrote, or runs of single layers. --links matches each layer's neurons with the
    next layer's; --edges finds which neurons feed which. `contralens explore RUNS` shows it on the page Layers.
    """
    from contralens.data.atlases import opened
    from contralens.evaluation.atlas import atlas
    from contralens.report.progress import bar

    if sort is not None and search is None:
        raise InputError("--sort goes with --search, whose list it sorts")
    sort = sort or "confidence"
    with bar(quiet=as_json) as progress:
        found = atlas(opened(runs, trust_code), **read(AtlasOf, given), progress=progress)
    descending = sort not in ("depth", "layer", "name", "label", "neuron")
    if as_json:
        whole = found.to_dict()
        if search is not None:
            whole["neurons"] = found.rows(text=search, sort=sort, descending=descending)
        print_json(whole)
        return
    from contralens.report.atlas_tables import atlas_tables, neurons_table

    if search is None:
        atlas_tables(found, top)
    else:
        neurons_table(found.rows(text=search, sort=sort, descending=descending), top)
