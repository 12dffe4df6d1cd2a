"""`contralens world`: pictures to try things with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def world_command(
    index: Annotated[str, typer.Argument(help="Which world: 1, 2 or 3.")],
    out: Annotated[Path, typer.Option(help="Folder to write: images/, scenes.parquet, vocabulary.txt.")],
    images: Annotated[int, typer.Option(help="How many pictures.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the scenes; 5 are those of the demo.")] = 5,
) -> None:
    """Render pictures of a world whose truth is known, to try contralens without photographs."""
    from contralens.checks import InputError
    from contralens.world.demo import write_world

    if images < 1:
        raise InputError(f"--images must be at least 1; got {images}")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "world.json").is_file()):
        raise InputError(f"{out} holds files but no rendered world; choose a new folder")
    write_world(out, index, images, seed)
    typer.echo(f"{images} pictures in {out / 'images'}, {out / 'vocabulary.txt'}; target world:{index}, encoder world")
