"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import Annotated, Any

import typer

from contralens import __version__
from contralens.commands.atlas import atlas_command
from contralens.commands.audit import audit_command
from contralens.commands.bench import app as bench_app
from contralens.commands.contrast import contrast_command
from contralens.commands.evaluate import compare_command, evaluate_command, recipe_command
from contralens.commands.explore import explore_command, export_command, maps_command
from contralens.commands.granularity import granularity_command
from contralens.commands.label import collect_command, label_command
from contralens.commands.look import (
    card_command,
    encoders_command,
    layers_command,
    proposers_command,
    report_command,
    show_command,
    targets_command,
    vocab_command,
)
from contralens.commands.match import match_command
from contralens.commands.propose import propose_command
from contralens.commands.share import (
    export_labels_command,
    import_labels_command,
    log_command,
    pull_command,
    push_command,
)
from contralens.commands.verify import verify_command
from contralens.commands.world import demo_command, world_command
from contralens.errors import ContralensError

app = typer.Typer(
    name="contralens",
    help="Label the neurons of a vision network using contrastive examples.\n\n"
    "A first look: contralens demo --world 1 --images 300",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", help="Hide progress on stderr; place it before the command. Or set CONTRALENS_QUIET=1."
        ),
    ] = False,
) -> None:
    if quiet:
        os.environ["CONTRALENS_QUIET"] = "1"


COMMANDS: dict[str, Any] = {
    "demo": demo_command,
    "world": world_command,
    "label": label_command,
    "collect": collect_command,
    "show": show_command,
    "report": report_command,
    "card": card_command,
    "explore": explore_command,
    "export": export_command,
    "maps": maps_command,
    "evaluate": evaluate_command,
    "compare": compare_command,
    "match": match_command,
    "contrast": contrast_command,
    "atlas": atlas_command,
    "audit": audit_command,
    "verify": verify_command,
    "propose": propose_command,
    "granularity": granularity_command,
    "export-labels": export_labels_command,
    "import-labels": import_labels_command,
    "log": log_command,
    "push": push_command,
    "pull": pull_command,
    "recipe": recipe_command,
    "layers": layers_command,
    "targets": targets_command,
    "encoders": encoders_command,
    "proposers": proposers_command,
    "vocab": vocab_command,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
app.add_typer(bench_app, name="bench")


def _warn(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    print(f"contralens: warning: {' '.join(str(message).split())}", file=sys.stderr)


_UsageError: Any = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)  # click may be vendored


INTERRUPTED = 130
"""Exit code of what Ctrl-C ended, as the shells have it."""


def main() -> None:
    """Entry point: what the user got wrong is one line on stderr and exit code 2."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads leave the cores to others while they wait
    warnings.showwarning = _warn
    for stream in (sys.stdout, sys.stderr):  # a terminal of another encoding shows what it lacks as an escape
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        result = app(standalone_mode=False)
        if result == INTERRUPTED:  # typer's word for it
            raise KeyboardInterrupt
    except ContralensError as e:
        print(f"contralens: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)
    except _UsageError as e:
        context = getattr(e, "ctx", None)
        if type(e).__name__ == "NoArgsIsHelpError":
            print(e.format_message(), file=sys.stderr)
            sys.exit(2)
        help_of = f" ({context.command_path} --help says what it takes)" if context is not None else ""
        print(f"contralens: {' '.join(e.format_message().split()).rstrip('.')}{help_of}", file=sys.stderr)
        sys.exit(2)
    except OSError as e:
        if e.errno is None:  # not the machine's, but a library's
            raise
        where = "" if e.filename is None else f": {e.filename}"
        print(f"contralens: {e.strerror or e}{where}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as e:  # no command of ours exits in this way
        if isinstance(e.__context__, BrokenPipeError):  # the reader of a pipe, such as `head`, has ended
            sys.exit(1)
        print(f"contralens: code that the command runs ended the program (SystemExit: {e.code})", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        print("contralens: interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(result if isinstance(result, int) else 0)
