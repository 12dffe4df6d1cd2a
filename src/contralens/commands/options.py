"""What several commands share: their options, how these are read, and what is printed for programs."""

from __future__ import annotations

import codecs
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Config = Annotated[
    Path | None,
    typer.Option(help="YAML file of these settings, by their long names; command-line values take precedence."),
]
TrustConfig = Annotated[
    bool, typer.Option("--trust-code", help="Allow the file to import code, such as module:FILE.py:FUNCTION.")
]

# Of commands that take finished runs.
RunFolder = Annotated[Path, typer.Argument(help="A run folder.")]
RunFolders = Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold some.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Allow a run from elsewhere to import code and open files.")
]


def print_json(value: Any) -> None:
    """Print a value as JSON, NaN and infinities as null."""
    from contralens.data.table_folders import plain

    escaped = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name != "utf-8"
    typer.echo(json.dumps(plain(value), indent=2, ensure_ascii=escaped, default=str))
