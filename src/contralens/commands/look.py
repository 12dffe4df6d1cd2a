"""Commands that only look: at a run, at a network's layers, at a vocabulary, and at what can be named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contralens.commands.flags import Given, with_flags
from contralens.commands.options import Json, RunFolder, print_json
from contralens.errors import InputError
from contralens.settings.label import Collect
from contralens.settings.record import read


def show_command(
    run: RunFolder,
    neuron: Annotated[str, typer.Argument(help="Neuron index or name.")],
    as_json: Json = False,
) -> None:
    """Show one neuron: labels, exemplars, contrasts."""
    from contralens.data.final_labels import final

    opened = final(run)
    found = opened.neuron(neuron)
    if as_json:
        print_json(found)
        return
    from contralens.report.tables import neuron_table

    neuron_table(opened, found)


def report_command(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="Output file (default: report.html in the run).")] = None,
    most: Annotated[int, typer.Option(help="Neurons to show with images.")] = 200,
) -> None:
    """Write a run's report as one HTML file."""
    from contralens.data.runs import load
    from contralens.report.html import write_report

    typer.echo(f"wrote {write_report(load(run), out, most=most)}")


def card_command(
    run: RunFolder,
    neuron: Annotated[
        list[str] | None,
        typer.Argument(help="Neuron index or name (default: the clearest change by contrast), or further runs."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Output PNG file (default: ./RUN-NEURON.png), or folder of a model card (model-card)."),
    ] = None,
    pairs: Annotated[int, typer.Option(help="Exemplars to show, 1 to 10.")] = 6,
    dark: Annotated[bool, typer.Option("--dark", help="Dark theme.")] = False,
    model: Annotated[
        bool, typer.Option("--model", help="Write a model card section of one run; several runs always give one.")
    ] = False,
    examples: Annotated[int, typer.Option(help="Neurons with pictures in a model card.")] = 6,
) -> None:
    """Save a neuron as a picture to share, or a model card.

    RUN [NEURON]: 1200 by 630 pixels with exemplars above contrasts, the label before and after contrast, its
    confidence. RUN RUN ..., or a folder that holds runs: a model card section in Markdown and HTML for the model's page
    on a hub: what was labeled, how, how many labels are supported, examples and limits.
    """
    if model or not (run / "manifest.json").is_file() or any(Path(n, "manifest.json").is_file() for n in neuron or ()):
        from contralens.report.model_card import write_model_card

        for path in write_model_card([run, *(neuron or ())], out or Path("model-card"), examples=examples):
            typer.echo(f"wrote {path}")
        return
    if neuron and len(neuron) > 1:
        raise InputError(f"give one neuron, or run folders; {neuron[0]} is not a run folder")
    _neuron_card(run, neuron[0] if neuron else None, out, pairs, dark)


def _neuron_card(run: Path, neuron: str | None, out: Path | None, pairs: int, dark: bool) -> None:
    from contralens.data.atomic_files import write_whole
    from contralens.data.card import card, chosen, png
    from contralens.data.final_labels import final

    opened = final(run)
    found = opened.neuron(chosen(opened) if neuron is None else neuron)
    path = out or Path(f"{run.resolve().name}-{found['name']}.png".replace("/", "-").replace(" ", "-"))
    write_whole(path, png(card(opened, found["neuron"], pairs, dark)))
    typer.echo(f"wrote {path}")


@with_flags(
    Collect, only=("layer", "layer_kinds", "pooling", "checkpoint", "weights", "preprocess", "prefix_tokens", "device")
)
def layers_command(
    given: Given,
    target: Annotated[str, typer.Argument(help="Network, as in `label --target`.")],
    as_json: Json = False,
) -> None:
    """List a network's layers and how many neurons each has.

    Also shows the output shape and the default pooling. With --layer or --layer-kinds, only the layers that these
    choose, in the order in which they run.
    """
    from contralens.models.targets import layers as list_layers

    asked = read(Collect, given)
    options = {name: asked[name] for name in ("checkpoint", "weights", "preprocess", "prefix_tokens") if name in asked}
    found = list_layers(target, **options)
    if "layer" in asked or "layer_kinds" in asked:
        from contralens.models.layer_choice import chosen_layers

        names = asked.get("layer", "all")
        names = [names] if isinstance(names, str) else names
        found = chosen_layers(found, names, asked.get("layer_kinds", ()), asked.get("pooling"))[0]
    if as_json:
        from dataclasses import asdict

        print_json([asdict(layer) for layer in found])
        return
    from contralens.report.tables import layers_table

    layers_table(found)


def vocab_command(
    name: Annotated[
        str | None, typer.Argument(help="File or built-in name (default: list the built-in vocabularies).")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the built-in vocabularies, or check one.

    Shows how the file was parsed, what was merged or dropped, and suspicious entries: long texts, headers, numbers
    or ids before a concept, plurals and synonyms.
    """
    from contralens.data.vocabulary import VOCABULARIES, read_vocabulary

    if name is None:
        _pairs({name: VOCABULARIES.about(name) for name in VOCABULARIES}, as_json)
        return
    words = read_vocabulary(name)
    report = words.lint.lines()
    if pairs := words.synonyms():
        some = ", ".join(f"{a!r} and {b!r}" for a, b in pairs[:5])
        report.append(f"{len(pairs)} with the same first sense in WordNet as another, kept: {some}")
    if as_json:
        print_json({"source": words.source, "concepts": list(words.concepts), "report": report})
        return
    typer.echo(f"{len(words.concepts)} concepts from {words.source}, e.g. {', '.join(words.concepts[:5])}")
    for line in report:
        typer.echo(f"  {line}")


def encoders_command(as_json: Json = False) -> None:
    """List the ways to name an image-text encoder."""
    from contralens.encoders.registry import ENCODERS

    _pairs({ENCODERS.form(name): ENCODERS.about(name) for name in ENCODERS}, as_json)


def proposers_command(as_json: Json = False) -> None:
    """List the available proposers of candidate labels.

    Includes local and remote vision-language models, and caption banks.
    """
    from contralens.proposing.proposers import PROPOSERS

    _pairs({PROPOSERS.form(name): PROPOSERS.about(name) for name in PROPOSERS}, as_json)


def targets_command(as_json: Json = False) -> None:
    """List the ways to name a network."""
    from contralens.models.targets import TARGETS

    _pairs({f"{name}:": TARGETS.about(name) for name in TARGETS}, as_json)


def _pairs(pairs: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json(pairs)
        return
    for name, about in pairs.items():
        typer.echo(f"{name}\n    {about}")
