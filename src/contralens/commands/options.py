"""What several commands share: their options, how these are read, and what is printed for programs."""

from __future__ import annotations

import codecs
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from contralens.errors import InputError

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Config = Annotated[
    Path | None,
    typer.Option(help="YAML file with any of these settings by their long names; what is given here goes before it."),
]
Groups = Annotated[
    str | None,
    typer.Option(help="TABLE:COLUMN, images that belong together: of one patient, lesion, scene or video."),
]
Cache = Annotated[Path | None, typer.Option(help="Cache folder (default: $CONTRALENS_CACHE or ~/.cache/contralens).")]
TrustConfig = Annotated[
    bool, typer.Option("--trust-code", help="Let the file name code to import, such as module:FILE.py:FUNCTION.")
]

# Of commands that take a finished run.
RunFolder = Annotated[Path, typer.Argument(help="A run folder.")]
Neurons = Annotated[str | None, typer.Option(help="Indices such as 0,5,10-20 (default: all labeled).")]
Source = Annotated[str | None, typer.Option(help="Where the run's images are now, if they moved.")]
Classes = Annotated[Path | None, typer.Option(help="File with the network's class names, one a line.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Let RUN name code to import and files to open, though not made here.")
]
Replace = Annotated[
    bool | None,
    typer.Option("--replace", help="Replace an older run even if it was edited or holds an evaluation, audit or maps."),
]
Fakes = Annotated[int, typer.Option(help="Null neurons of the null test.")]
RunDevice = Annotated[str, typer.Option(help="Where the networks run: cpu, cuda, cuda:1, mps.")]
RunBatchSize = Annotated[int, typer.Option(help="Images per forward pass.")]
RunSeed = Annotated[int, typer.Option(help="Seed of all that is drawn.")]


def prices(text: str) -> tuple[float, float]:
    """Prices per million tokens, in and out.

    >>> prices("2.5/10")
    (2.5, 10.0)
    """
    try:
        into, out = (float(part) for part in text.split("/"))
    except ValueError:
        raise InputError(f"--price is tokens in and out per million, e.g. 2.5/10; got {text!r}") from None
    return into, out


def print_json(value: Any) -> None:
    """Print a value as JSON, NaN and infinities as null."""
    from contralens.data.folders import plain

    escaped = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name != "utf-8"
    typer.echo(json.dumps(plain(value), indent=2, ensure_ascii=escaped, default=str))
