"""The command `contralens propose`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from contralens.checks import InputError


def propose_command(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    proposer: Annotated[
        str, typer.Option(help="hf:MODEL or hf:FOLDER, openai:MODEL@URL, captions:FILE, captions:metadata.")
    ],
    prompt: Annotated[
        str, typer.Option(help='"contrastive", "positives", or a file with a template of your own.')
    ] = "contrastive",
    images: Annotated[
        str | None, typer.Option(help="The probe images, for full size (default: the run's thumbnails).")
    ] = None,
    neurons: Annotated[str | None, typer.Option(help="Indices such as 0,5,10-20 (default: all labeled).")] = None,
    show: Annotated[int, typer.Option(help="Images of each group.")] = 9,
    layout: Annotated[str, typer.Option(help='"grids", or "separate" images for models that take several.')] = "grids",
    cell: Annotated[
        int | None, typer.Option(help="Side of an image in px, at least 112 (default 224; 128 from thumbnails).")
    ] = None,
    columns: Annotated[int, typer.Option(help="Columns of a grid (default: as square as it can be).")] = 0,
    alike: Annotated[float, typer.Option(help="Cosine from which images are near-copies; 1 shows all.")] = 0.95,
    count: Annotated[int | None, typer.Option(help="Concepts asked for (default 3; 8 from captions).")] = None,
    words: Annotated[int, typer.Option(help="Words of a concept, at most.")] = 4,
    domain: Annotated[str, typer.Option(help='A hint for the model, e.g. "dermoscopy".')] = "",
    max_tokens: Annotated[int, typer.Option(help="Tokens of an answer, at most.")] = 256,
    merge: Annotated[
        float, typer.Option(help="Cosine of text embeddings from which candidates count as one; 0: never.")
    ] = 0.97,
    price: Annotated[
        str | None, typer.Option(help="Per million tokens in and out, e.g. 2.5/10; makes the plan tell the cost.")
    ] = None,
    budget: Annotated[float | None, typer.Option(help="Stop before this much is spent (needs --price).")] = None,
    workers: Annotated[int | None, typer.Option(help="openai: questions under way at once (default 4).")] = None,
    timeout: Annotated[float | None, typer.Option(help="openai: seconds for one attempt (default 120).")] = None,
    retries: Annotated[int | None, typer.Option(help="openai: further attempts after 429, 5xx (default 4).")] = None,
    key_env: Annotated[
        str | None,
        typer.Option(help="openai: environment variable with the key (default OPENAI_API_KEY; CONTRALENS_API_KEY)."),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="hf: questions in one pass (default 4).")] = None,
    dtype: Annotated[str | None, typer.Option(help="hf: auto, float32, bfloat16 or float16.")] = None,
    contrast: Annotated[
        str | None, typer.Option(help='captions: "partners" (default) or "falcon", mined in the target\'s space.')
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of replies and candidates (default RUN.candidates).")] = None,
    device: Annotated[str, typer.Option(help="Where models run: cpu, cuda, mps.")] = "cpu",
    cache: Annotated[Path | None, typer.Option(help="Cache folder (default: as in `label`).")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and one question, write its pictures, ask nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Ask a vision-language model, or a caption bank, for candidate labels of a run's neurons."""
    from contralens.proposing.propose import propose
    from contralens.report.progress import bar

    options: dict[str, Any] = {
        "workers": workers, "timeout": timeout, "retries": retries, "key_env": key_env, "batch": batch, "dtype": dtype,
        "device": device if proposer.startswith("hf:") else None,
    }  # fmt: skip
    with bar(quiet=as_json) as progress:
        found = propose(
            run,
            proposer,
            prompt=prompt,
            images=images,
            neurons=None if neurons is None else indices(neurons),
            show=show,
            layout=layout,  # type: ignore[arg-type]
            cell=cell,
            columns=columns,
            alike=alike,
            count=count,
            words=words,
            domain=domain,
            max_tokens=max_tokens,
            merge=merge or None,
            price=None if price is None else prices(price),
            budget=budget,
            folder=out,
            cache=cache,
            device=device,
            dry_run=dry_run,
            on_plan=None if as_json else lambda plan: typer.echo("\n".join(plan.lines()), err=True),
            progress=progress,
            proposer_options={k: v for k, v in options.items() if v is not None},
            caption_options=None if contrast is None else {"contrast": contrast},
        )
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    elif dry_run and (example := found.manifest.get("dry_run")):
        typer.echo(f"the question about neuron {example['neuron']}, as it would be sent:\n\n{example['text']}\n")
        typer.echo("\n".join(["pictures:", *example["pictures"]]))
    elif not dry_run:
        _summary(found)
    if not dry_run and found.errors and not found.concepts:
        raise typer.Exit(1)


def _summary(found: Any) -> None:
    counts = found.manifest["neurons"]
    typer.echo(
        f"{len(found)} candidates for {counts['answered']} neurons"
        + (f" ({found.manifest['merge']['merged']} near-synonyms merged)" if found.manifest["merge"]["merged"] else "")
    )
    for neuron in list(dict.fromkeys(p["neuron"] for p in found.provenance))[:10]:
        name = next(p["name"] for p in found.provenance if p["neuron"] == neuron)
        typer.echo(f"  {name}: {', '.join(found.of(neuron))}")
    for error in found.errors[:10]:
        typer.echo(f"  {error['name']}: no candidate: {error['error']}", err=True)
    if len(found.errors) > 10:
        typer.echo(f"  ... and {len(found.errors) - 10} more without a candidate, in candidates.json", err=True)
    if found.path:
        typer.echo(f"written: {found.path}; `contralens label ... --candidates {found.path}` takes them")


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


def indices(text: str) -> list[int]:
    """Numbers and ranges separated by commas.

    >>> indices("1,4-6")
    [1, 4, 5, 6]
    """
    out: list[int] = []
    try:
        for part in text.split(","):
            low, dash, high = part.strip().partition("-")
            out += range(int(low), int(high) + 1) if dash else [int(low)]
    except ValueError:
        raise InputError(f"--neurons must be indices such as 0,5,10-20; got {text!r}") from None
    return out
