"""The command `contralens audit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from contralens.checks import InputError


def audit_command(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    concepts: Annotated[
        str, typer.Option(help="Expected and spurious concepts: dermoscopy, photographs, or a YAML file.")
    ],
    labeled: Annotated[
        str | None, typer.Option(help="Images with a known class, one sub-folder per class, to measure pruning on.")
    ] = None,
    subgroups: Annotated[
        Path | None, typer.Option(help="CSV file of groups among them: image, then one column per kind of group.")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="The linear layer from neurons to classes (default: found by trying; none: without)."),
    ] = None,
    scorer: Annotated[str, typer.Option(help="What scores the concepts, e.g. csp:gamma=0.5.")] = "csp",
    fdr: Annotated[float, typer.Option(help="False-discovery rate of the verdicts.")] = 0.05,
    mode: Annotated[str, typer.Option(help="hard switches spurious neurons off, soft turns them down.")] = "hard",
    follow: Annotated[
        list[str] | None, typer.Option(help="Class whose score is followed, repeatable (default: all, at most 20).")
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="File with the network's class names, one a line.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Another encoder than the run's, e.g. a medical one.")] = None,
    fakes: Annotated[int, typer.Option(help="Fake neurons that chance is measured on.")] = 1000,
    images: Annotated[int, typer.Option(help="Images per neuron that influence is measured over.")] = 16,
    sample: Annotated[
        int, typer.Option(help="Unexplained neurons that are switched off too, beside all explained ones; -1 for all.")
    ] = 32,
    source: Annotated[str | None, typer.Option(help="Where the run's images are now, if they moved.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Cache folder.")] = None,
    device: Annotated[str, typer.Option(help="Where the networks run.")] = "cpu",
    batch_size: Annotated[int, typer.Option(help="Images per forward pass.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of all that is drawn.")] = 0,
    most: Annotated[int, typer.Option(help="Neurons of each verdict shown.")] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables.")] = False,
) -> None:
    """Find neurons that stand for expected and for spurious concepts, what they do to the classes, and prune them."""
    from contralens.auditing.audit import audit
    from contralens.commands.evaluate import read_classes
    from contralens.report.progress import bar

    if mode not in ("hard", "soft"):
        raise InputError(f"--mode must be hard or soft; got {mode!r}")
    options: dict[str, Any] = {"mode": mode, "sample": None if sample < 0 else sample}
    with bar(quiet=as_json) as progress:
        found = audit(
            run, concepts, scorer=scorer, labeled=labeled, subgroups=subgroups,
            classes=read_classes(classes) if classes is not None else None, head=head, follow=follow or None, fdr=fdr,
            fakes=fakes, images=images, encoder=encoder, source=source, cache=cache, device=device,
            batch_size=batch_size, seed=seed, progress=progress, **options,
        )  # fmt: skip
    if as_json:
        from contralens.data.evaluations import plain

        told = {
            "out": str(found.path), "manifest": found.manifest, "neurons": found.neurons.to_pylist(),
            "influence": found.influence.to_pylist(), "pruning": found.pruning.to_pylist(),
        }  # fmt: skip
        typer.echo(json.dumps(plain(told), indent=2, ensure_ascii=False, default=str))
        return
    from contralens.report.audit_tables import audit_tables

    audit_tables(found, most)
