"""The command `contralens propose`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from contralens.checks import counted
from contralens.commands.flags import Given, with_flags
from contralens.commands.options import Json, RunFolder, TrustCode, print_json
from contralens.errors import InputError, MissingPackage
from contralens.settings.propose import ProposeCommand, arguments
from contralens.settings.record import read

if TYPE_CHECKING:
    from contralens.data.runs import Run


@with_flags(ProposeCommand, without=("run", "proposer_options", "caption_options"))
def propose_command(given: Given, run: RunFolder, trust_code: TrustCode = False, as_json: Json = False) -> None:
    """Ask a vision-language model for candidate labels.

    Shows the model each neuron's exemplars above their contrasts. A caption bank works, too. Next:
    contralens label ... --candidates RUN.candidates
    """
    settings = arguments(read(ProposeCommand, given))
    if "proposer" not in settings:
        raise InputError("--proposer is missing; --help says what it takes")
    from contralens.data.runs import load
    from contralens.proposing.propose import propose
    from contralens.report.progress import bar

    asked, dry_run = load(run, trust_code=trust_code), settings.get("dry_run", False)
    settings["images"], settings["target"] = _network_and_images(asked, settings)
    with bar(quiet=as_json) as progress:
        found = propose(asked, **settings, on_plan=None if as_json else print_plan, progress=progress)
    if as_json:
        print_json(found.to_json())
    elif dry_run:
        _show_question(found.manifest.get("dry_run") or {})
    else:
        _summary(found)
    if not dry_run and found.errors and not found.concepts:
        raise typer.Exit(1)


def print_plan(plan: Any) -> None:
    """Say on stderr what is going to be asked."""
    typer.echo("\n".join(plan.lines()), err=True)


def _network_and_images(run: Run, settings: dict[str, Any]) -> tuple[Any, Any]:
    """The probe images, by default where the run found them if they are still there, and the network for a focus."""
    from contralens.run_data.reopened import Reopened

    images = settings.get("images")
    reopened = Reopened(run, source=images, cache=settings.get("cache"), device=settings.get("device", "cpu"))
    if images is None:
        try:
            there = set(reopened.images.fingerprints()) & set(run.images["fingerprint"].to_pylist())
        except (InputError, MissingPackage):  # they cannot be opened here: thumbnails do
            there = set()
        images = reopened.images if there else None
    return images, reopened.target if settings.get("focus") else None


def _show_question(example: dict[str, Any]) -> None:
    if example:
        typer.echo(f"the question about neuron {example['name']}, as sent:\n\n{example['text']}\n")
        typer.echo("\n".join(["pictures:", *(f"  {path}" for path in example["pictures"])]))
        typer.echo(f"with its pictures in a browser: {example['page']}")


def _summary(found: Any) -> None:
    answered, merged = found.manifest["neurons"]["answered"], found.manifest["merge"]["merged"]
    typer.echo(
        f"{counted(len(found), 'candidate')} for {counted(answered, 'neuron')}"
        + (f" ({counted(merged, 'near-synonym')} merged)" if merged else "")
        + (f", none for {counted(len(found.errors), 'neuron')}" if found.errors else "")
    )
    for neuron in list(dict.fromkeys(p["neuron"] for p in found.provenance))[:10]:
        name = next(p["name"] for p in found.provenance if p["neuron"] == neuron)
        typer.echo(f"  {name}: {', '.join(found.of(neuron))}")
    for error in found.errors[:10]:
        typer.echo(f"  {error['name']}: no candidate: {error['error']}", err=True)
    if len(found.errors) > 10:
        typer.echo(f"  ... and {len(found.errors) - 10} more without a candidate, in candidates.json", err=True)
    if found.path and found.concepts:
        typer.echo(f"written: {found.path}; `contralens label ... --candidates {found.path}` takes them")
