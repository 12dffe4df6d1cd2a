"""The commands `explore`, `export` and `maps`, ready for typer: `app.command("explore")(explore_command)`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import socket
import threading
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from contralens.checks import require
from contralens.commands.flags import Given, with_flags
from contralens.commands.options import RunFolder, RunFolders, TrustCode
from contralens.errors import InputError
from contralens.settings.finished_run import OnLabels
from contralens.settings.record import read

PORT = 8787


def explore_command(
    runs: RunFolders,
    host: Annotated[str, typer.Option(help="Bind address. Non-loopback addresses require a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 picks a free one.", min=0, max=65535)] = PORT,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address; do not open a browser.")] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Load no encoder and write no notes.")] = False,
    trust_code: TrustCode = False,
) -> None:
    """Browse runs in a web browser.

    Shows every neuron with its evidence; offers search, comparison and notes. Ctrl-C stops the server.
    """
    _modest()
    _needs()
    from contralens.commands.match import cached
    from contralens.commands.verify import label_test
    from contralens.data.table_folders import run_folders
    from contralens.explorer.app import create_app
    from contralens.explorer.guard import is_loopback

    runs = run_folders(runs)
    token = None if is_loopback(host) else secrets.token_urlsafe(24)
    app = create_app(
        runs, read_only=read_only, host=host, token=token, trust_code=trust_code, tester=label_test, matcher=cached
    )
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    if host in ("0.0.0.0", "::"):
        shown = socket.gethostname()
    address = f"http://{shown}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")
    typer.echo(f"contralens explorer: {address}  (stop with Ctrl+C)")
    serve(app, listener, None if no_browser else address)


def export_command(
    runs: RunFolders,
    out: Annotated[Path, typer.Option(help="Site folder: new, empty or an older export.")],
    notes: Annotated[bool, typer.Option("--notes", help="Also publish notes, tags and corrected labels.")] = False,
    url: Annotated[
        str | None, typer.Option(help="Public URL of the site; adds pages links/RUN/NEURON.html with link previews.")
    ] = None,
) -> None:
    """Write the explorer's pages as a static site.

    Works on any web host and from the folder; a site of several runs compares them.
    """
    _modest()
    _needs()
    from contralens.commands.match import cached
    from contralens.data.table_folders import run_folders
    from contralens.explorer.export import export
    from contralens.report.progress import bar

    with bar(quiet=False) as progress:
        page = export(run_folders(runs), out, with_notes=notes, url=url, matcher=cached, progress=progress)
    typer.echo(f"wrote {page / 'index.html'}")


@with_flags(OnLabels, only=("source", "classes", "cache", "device", "batch_size"))
def maps_command(
    given: Given,
    run: RunFolder,
    pairs: Annotated[int, typer.Option(help="Pairs per neuron to map.")] = 10,
    layout: Annotated[bool, typer.Option("--layout", help="Also compute a UMAP layout of the neurons.")] = False,
    trust_code: TrustCode = False,
) -> None:
    """Add activation maps and downstream classes to a run.

    Shows where each neuron is active in its exemplars and which classes it feeds; view them with `explore`.
    """
    from contralens.data.runs import load
    from contralens.maps import add_maps
    from contralens.report.progress import bar

    with bar() as progress:
        options = {"pairs": pairs, "layout": layout, **read(OnLabels, given)}
        told = add_maps(load(run, trust_code=trust_code), **options, progress=progress)
    typer.echo("\n".join(told))


def serve(app: Any, listener: socket.socket, browse: str | None = None) -> None:
    """Answer requests on a bound socket until interrupted; open `browse` in a browser once it answers."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=20, ws="none"
    )
    server = uvicorn.Server(config)
    if browse is not None:
        threading.Timer(0.5, webbrowser.open, (browse,)).start()
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how it is meant to end
        server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; the default port gives way to a free one when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in (port, 0) if port == PORT else (port,):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, wanted))
            listener.listen(256)
            return listener
        except OSError as e:
            listener.close()
            error = e
    raise InputError(f"cannot listen on {host} port {port}: {error.strerror or error}; try another --port")


def _modest() -> None:
    """Few threads and few heaps: products of one vector gain nothing from more, and memory stays small."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # heard by numpy when it is first imported
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # by pyarrow; the others keep what was freed
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(-8, 2)  # M_ARENA_MAX of glibc


def _needs() -> None:
    for module in ("duckdb", "fastapi", "uvicorn"):
        require(module, "explore")
