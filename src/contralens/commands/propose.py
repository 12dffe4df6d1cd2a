"""The command `contralens propose`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from contralens.checks import counted, nearest
from contralens.commands.options import Cache, Json, Neurons, RunFolder, TrustCode, indices, prices, print_json
from contralens.errors import InputError, MissingPackage

if TYPE_CHECKING:
    from contralens.data.runs import Run


def propose_command(
    run: RunFolder,
    proposer: Annotated[
        str,
        typer.Option(
            help="hf:MODEL or hf:FOLDER, openai:MODEL@URL, captions:FILE, captions:metadata; see `proposers`."
        ),
    ],
    prompt: Annotated[
        str | None, typer.Option(help='"contrastive" (default), "positives", or a file with a template of your own.')
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="Where the probe images are now (default: where they were, else thumbnails).")
    ] = None,
    neurons: Neurons = None,
    show: Annotated[int | None, typer.Option(help="Images of each group (default 9).")] = None,
    layout: Annotated[
        str | None, typer.Option(help='"grids" (default), or "separate" images for models that take several.')
    ] = None,
    cell: Annotated[
        int | None, typer.Option(help="Side of an image in px, at least 112 (default 224; 128 from thumbnails).")
    ] = None,
    columns: Annotated[int | None, typer.Option(help="Columns of a grid (default: as square as it can be).")] = None,
    alike: Annotated[
        float | None, typer.Option(help="Cosine from which images are near-copies (default 0.95); 1 shows all.")
    ] = None,
    focus: Annotated[
        str | None, typer.Option(help='Show where the neuron fires: "crop" images to it, or "mask" all else in grey.')
    ] = None,
    count: Annotated[int | None, typer.Option(help="Concepts asked for (default 3; 8 from captions).")] = None,
    words: Annotated[int | None, typer.Option(help="Words of a concept, at most (default 4).")] = None,
    domain: Annotated[str | None, typer.Option(help='A hint for the model, e.g. "dermoscopy".')] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens of an answer, at most (default 256).")] = None,
    merge: Annotated[
        float | None,
        typer.Option(help="Cosine of text embeddings from which candidates count as one (default 0.97); 0: never."),
    ] = None,
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
    groups: Annotated[
        str | None, typer.Option(help='captions: neurons explained together, e.g. "3,8;5,6" (FALCON\'s groups).')
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of replies and candidates (default RUN.candidates).")] = None,
    device: Annotated[str, typer.Option(help="Where models run: cpu, cuda, cuda:1, mps.")] = "cpu",
    cache: Cache = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and one question, write its pictures, ask nothing.")
    ] = False,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Ask a vision-language model for candidate labels.

    It sees the exemplars of each neuron of a run above their contrasts; a caption bank can answer, too. Then:
    contralens label ... --candidates RUN.candidates
    """
    from contralens.data.runs import load
    from contralens.proposing.propose import propose
    from contralens.report.progress import bar

    flags = {name: value for name, value in locals().items() if name in _settings()}
    given: dict[str, Any] = {**arguments(flags), **({} if neurons is None else {"neurons": indices(neurons)})}
    asked = load(run, trust_code=trust_code)
    given["images"], given["target"] = _network_and_images(asked, images, given.get("focus"), cache, device)
    with bar(quiet=as_json) as progress:
        found = propose(
            asked, proposer, **given, folder=out, cache=cache, device=device, dry_run=dry_run,
            on_plan=None if as_json else print_plan, progress=progress,
        )  # fmt: skip
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


@lru_cache
def _settings() -> dict[str, type]:
    """Flags that say how to ask, with the type of each: what `label --propose` takes too."""
    others = (
        "run",
        "proposer",
        "images",
        "neurons",
        "out",
        "device",
        "cache",
        "dry_run",
        "trust_code",
        "as_json",
        "return",
    )
    hints = {name: hint for name, hint in get_type_hints(propose_command).items() if name not in others}
    return {name: next(t for t in (int, float, str) if t in get_args(hint)) for name, hint in hints.items()}


def read_settings(given: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """Settings of `propose`, as NAME=VALUE texts or a mapping of a YAML file, each of its type.

    >>> read_settings(["focus=crop", "max-tokens=64"])
    {'focus': 'crop', 'max_tokens': 64}
    """
    pairs = given.items() if isinstance(given, Mapping) else (str(text).split("=", 1) for text in given)
    out = {}
    for name, *value in pairs:
        kind = _settings().get(str(name).strip().replace("-", "_"))
        if kind is None or not value:
            known = [known.replace("_", "-") for known in _settings()]
            what = "is NAME=VALUE" if kind else f"knows no {name!r}{nearest(str(name), known)}"
            raise InputError(f"--propose {what}, e.g. focus=crop; the names are {', '.join(known)}")
        try:
            out[str(name).strip().replace("-", "_")] = kind(value[0])
        except (TypeError, ValueError):
            wanted = {int: "a whole number", float: "a number"}[kind]
            raise InputError(f"--propose {name} takes {wanted}; got {value[0]!r}") from None
    return out


def arguments(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags of the command as arguments of `contralens.propose`; those not given are left to their defaults.

    >>> arguments({"merge": 0.0, "price": "2/8", "workers": 2, "focus": None})
    {'merge': None, 'price': (2.0, 8.0), 'proposer_options': {'workers': 2}}
    """
    out = {name: value for name, value in flags.items() if value is not None}
    if "merge" in out:
        out["merge"] = out["merge"] or None
    if "price" in out:
        out["price"] = prices(out["price"])
    if "groups" in out:
        out["groups"] = [indices(group) for group in out["groups"].split(";")]
    for part, names in (
        ("proposer_options", ("workers", "timeout", "retries", "key_env", "batch", "dtype")),
        ("caption_options", ("contrast", "groups")),
    ):
        if own := {name: out.pop(name) for name in names if name in out}:
            out[part] = own
    return out


def _network_and_images(run: Run, images: Any, focus: Any, cache: Path | None, device: str) -> tuple[Any, Any]:
    """The probe images, by default where the run found them if they are still there, and the network for a focus."""
    from contralens.reopen import Reopened

    reopened = Reopened(run, source=images, cache=cache, device=device)
    if images is None:
        try:
            there = set(reopened.images.fingerprints()) & set(run.images["fingerprint"].to_pylist())
        except (InputError, MissingPackage):  # they cannot be opened here: thumbnails do
            there = set()
        images = reopened.images if there else None
    return images, reopened.target if focus else None


def _show_question(example: dict[str, Any]) -> None:
    if example:
        typer.echo(f"the question about neuron {example['name']}, as it would be sent:\n\n{example['text']}\n")
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
