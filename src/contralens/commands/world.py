"""The commands `contralens world`, pictures to try things with, and `contralens demo`, labels whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contralens.commands.flags import Given, with_flags
from contralens.commands.options import Json, print_json
from contralens.settings.bench import IMAGES, Rendered
from contralens.settings.label import Label
from contralens.settings.record import read


@with_flags(Rendered)
def world_command(
    given: Given,
    index: Annotated[str, typer.Argument(help="Which world: 1, 2 or 3.")],
    out: Annotated[Path, typer.Option(help="Folder to write: images/, scenes.parquet, vocabulary.txt.")],
) -> None:
    """Render images to try contralens with.

    The world's truth is known; `label --target world:1 --encoder world` labels a network trained on it.
    """
    from contralens.bench.world_images import write_world

    drawn = Rendered(**read(Rendered, given))
    write_world(out, index, drawn.images, drawn.seed)
    typer.echo(
        f"{drawn.images} pictures in {out / 'images'}, {out / 'vocabulary.txt'}; target world:{index}, encoder world"
    )


@with_flags(Label, only=("replace", "cache"))
def demo_command(
    given: Given,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("contralens-demo"),
    world: Annotated[list[int] | None, typer.Option(help="World 1, 2 or 3, repeatable (default: all three).")] = None,
    images: Annotated[int, typer.Option(help="Probe images per world; fewer are faster and less certain.")] = IMAGES,
    as_json: Json = False,
) -> None:
    """Count correct labels where the truth is known.

    Labels networks in three rendered worlds, without downloads, in about half a minute.
    """
    from contralens.demo import demo, summary
    from contralens.report.html import write_report
    from contralens.report.progress import bar
    from contralens.report.tables import demo_table, program
    from contralens.world.targets import WORLDS

    with bar(quiet=as_json) as progress:
        runs, judged = demo(out, worlds=world or tuple(WORLDS), images=images, **read(Label, given), progress=progress)
    pages = [write_report(run) for run in runs]
    if as_json:
        print_json(
            {"results": summary(judged), "runs": [str(run.path) for run in runs], "reports": list(map(str, pages))}
        )
        return
    demo_table(summary(judged))
    typer.echo(f"\nall figures: {out / 'demo.json'}; one run and report for each world and kind of neuron:")
    for page in pages:
        typer.echo(f"  {page}")
    typer.echo(f"open one:  python -m webbrowser {pages[-1].resolve().as_uri()}")
    typer.echo(f"share one: {program()} card {runs[-1].path}   (the clearest change by contrast, as a picture)")
