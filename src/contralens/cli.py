"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from contralens import __version__
from contralens.checks import InputError
from contralens.commands.audit import audit_command
from contralens.commands.bench import app as bench_app
from contralens.commands.evaluate import compare_command, evaluate_command, recipe_command
from contralens.commands.explore import explore_command, export_command, maps_command
from contralens.commands.granularity import granularity_command
from contralens.commands.options import indices
from contralens.commands.propose import arguments, print_plan, propose_command, read_settings
from contralens.commands.share import export_labels_command, import_labels_command, pull_command, push_command
from contralens.commands.world import world_command

app = typer.Typer(
    name="contralens",
    help="What the neurons of a vision network respond to, told with contrastive examples.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Target = Annotated[
    str | None, typer.Option(help="The network: torchvision:NAME, timm:NAME, hf:ID, module:FILE.py:FUNCTION, world:1.")
]
Layer = Annotated[
    list[str] | None,
    typer.Option(help="Its layer; `contralens layers TARGET` lists them. Repeatable: one forward gives all."),
]
Encoder = Annotated[str | None, typer.Option(help="The image-text encoder: open_clip:ARCH/TAG, hf:ID, offline, world.")]
Images = Annotated[
    str | None, typer.Option(help="The probe images: a folder, @LIST.txt or hf-dataset:NAME:SPLIT[:COLUMN].")
]
Config = Annotated[Path | None, typer.Option(help="YAML file with any of these settings; flags go before it.")]
Pooling = Annotated[str | None, typer.Option(help="How an activation becomes one number (default: inferred).")]
Sae = Annotated[
    str | None,
    typer.Option(help="A sparse autoencoder over that layer, FILE or FOLDER[:kind=...,k=...]: docs/saes.md."),
]
SaePooling = Annotated[str | None, typer.Option(help="How latents of patches become one: max (default), mean, cls.")]
Limit = Annotated[int | None, typer.Option(help="Use a seeded sample of that many images.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the sample (default 0).")]
BatchSize = Annotated[int | None, typer.Option(help="Images per forward pass (default 32).")]
Workers = Annotated[int | None, typer.Option(help="Threads that decode images (default: one per core).")]
Cache = Annotated[Path | None, typer.Option(help="Cache folder (default: $CONTRALENS_CACHE or ~/.cache/contralens).")]
Device = Annotated[str | None, typer.Option(help="Where the networks run: cpu (default), cuda, cuda:1, mps.")]
Checkpoint = Annotated[
    Path | None, typer.Option(help="Own weights for the architecture: .safetensors, or .pt/.pth without code.")
]
Weights = Annotated[str | None, typer.Option(help='Name of pretrained weights, or "random" for none.')]
Preprocess = Annotated[
    str | None, typer.Option(help='Preprocessing of own networks, e.g. "resize=256,crop=224,mean=imagenet".')
]
Decode = Annotated[
    str | None,
    typer.Option(help='"exact" (default): each network\'s own transform; "fast": on tensors, where that agrees.'),
]
Precision = Annotated[
    str | None, typer.Option(help='"float32" (default), or "bf16" where the first images say that it is safe.')
]


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


@app.command()
def label(
    target: Target = None,
    layer: Layer = None,
    encoder: Encoder = None,
    images: Images = None,
    vocabulary: Annotated[
        str | None, typer.Option(help="Concepts to choose from: a file with one a line, or a built-in name.")
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            help="Scorer, repeatable; the last is the primary. Default: semanticlens, clip_dissect, csp:gamma=0, csp."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to write (default: contralens-run).")] = None,
    config: Config = None,
    pooling: Pooling = None,
    sae: Sae = None,
    sae_pooling: SaePooling = None,
    k: Annotated[int | None, typer.Option("--k", "-k", help="Exemplars per neuron (default 30).")] = None,
    reuse: Annotated[
        bool | None, typer.Option("--reuse/--no-reuse", help="May one image be the contrast of several positives?")
    ] = None,
    exclude: Annotated[
        float | None, typer.Option(help="Skip contrasts with a cosine above this: near-duplicates (default: off).")
    ] = None,
    neighbours: Annotated[
        str | None,
        typer.Option(
            help='How look-alikes are found: "exact" (default); beyond a million images faiss:hnsw, faiss:ivf.'
        ),
    ] = None,
    neurons: Annotated[
        str | None, typer.Option(help='"all" (default), "paper" (its choice of 200), or indices such as 0,5,10-20.')
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(help='Text template, repeatable, e.g. "a photo of a {}", or a set: plain, photo.'),
    ] = None,
    proposer: Annotated[
        str | None,
        typer.Option(help="Ask for concepts beyond the vocabulary: hf:MODEL, openai:MODEL@URL, captions:FILE."),
    ] = None,
    candidates: Annotated[Path | None, typer.Option(help="What `contralens propose` wrote: RUN.candidates.")] = None,
    propose: Annotated[
        list[str] | None,
        typer.Option(help="A setting of `contralens propose` for --proposer, repeatable, e.g. focus=crop."),
    ] = None,
    own_only: Annotated[
        bool | None, typer.Option("--own-only/--for-all", help="Score proposed concepts for their own neurons only.")
    ] = None,
    holdout: Annotated[
        float | None, typer.Option(help="Share of the images kept out of labeling, for `contralens evaluate`.")
    ] = None,
    fdr: Annotated[
        float | None,
        typer.Option(help="False-discovery rate, e.g. 0.05: a neuron whose label does not beat chance gets none."),
    ] = None,
    fakes: Annotated[int | None, typer.Option(help="Fake neurons that chance is told by (default 1000).")] = None,
    store_activations: Annotated[
        bool | None,
        typer.Option(
            "--store-activations/--no-store-activations",
            help="Keep activations in the cache (default), or run the network again where they are needed.",
        ),
    ] = None,
    limit: Limit = None,
    top: Annotated[int | None, typer.Option(help="Concepts kept per neuron and scorer (default 10).")] = None,
    seed: Seed = None,
    device: Device = None,
    batch_size: BatchSize = None,
    workers: Workers = None,
    cache: Cache = None,
    checkpoint: Checkpoint = None,
    weights: Weights = None,
    preprocess: Preprocess = None,
    decode: Decode = None,
    precision: Precision = None,
    report: Annotated[
        bool | None, typer.Option("--report/--no-report", help="Write report.html into the run (default).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Label the neurons of a layer and write a run folder with the evidence and an HTML report."""
    flags = {
        "target": target,
        "layer": layer,
        "encoder": encoder,
        "images": images,
        "vocabulary": vocabulary,
        "scorers": scorer,
        "out": out,
        "pooling": pooling,
        "sae": sae,
        "sae_pooling": sae_pooling,
        "k": k,
        "reuse": reuse,
        "exclude": exclude,
        "neighbours": neighbours,
        "neurons": neurons,
        "templates": template,
        "proposer": proposer,
        "candidates": candidates,
        "propose": propose,
        "own_only": own_only,
        "holdout": holdout,
        "fdr": fdr,
        "fakes": fakes,
        "store_activations": store_activations,
        "limit": limit,
        "top": top,
        "seed": seed,
        "device": device,
        "batch_size": batch_size,
        "workers": workers,
        "cache": cache,
        "checkpoint": checkpoint,
        "weights": weights,
        "preprocess": preprocess,
        "decode": decode,
        "precision": precision,
        "report": report,
    }
    settings = _settings(config, flags, needed=("target", "encoder", "images", "vocabulary"))
    settings.setdefault("out", "contralens-run")
    if isinstance(templates := settings.get("templates"), (list, tuple)) and len(templates) == 1:
        settings["templates"] = templates[0]
    if isinstance(chosen := settings.get("neurons"), str) and chosen not in ("all", "paper"):
        settings["neurons"] = indices(chosen, '"all", "paper" or ')
    if (asked := settings.pop("propose", None)) is not None:
        if "proposer" not in settings:
            raise InputError("--propose sets how --proposer asks, and --proposer is missing")
        settings["proposing"] = arguments(read_settings(asked))
    if "proposer" in settings:
        settings.setdefault("proposing", {})["on_plan"] = None if as_json else print_plan
    with_report = settings.pop("report", True)
    from contralens.report.progress import bar

    several = _layers(settings)
    with bar(quiet=as_json) as progress:
        if several:
            from contralens.layers import label_layers

            runs = list(label_layers(**settings, layers=several, progress=progress).values())
        else:
            from contralens.pipeline import label as run_label

            runs = [run_label(**settings, progress=progress)]
    pages = [_report(run) if with_report else None for run in runs]
    if as_json:
        told = [
            {
                "out": str(run.path),
                "report": str(page) if page else None,
                "manifest": run.manifest,
                "labels": run.labels.to_pylist(),
            }
            for run, page in zip(runs, pages, strict=True)
        ]
        _print_json({"runs": told} if several else told[0])
        return
    from contralens.report.tables import labels_table, summary

    for run, page in zip(runs, pages, strict=True):
        labels_table(run)
        summary(run, page)


@app.command()
def collect(
    target: Target = None,
    layer: Layer = None,
    encoder: Annotated[
        list[str] | None, typer.Option(help="The image-text encoder, repeatable: open_clip:ARCH/TAG, hf:ID, offline.")
    ] = None,
    images: Images = None,
    config: Config = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: do the i-th of n parts (from 0), for SLURM, torchrun or any job system.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help='"local" (default) or "ray".')] = None,
    pooling: Pooling = None,
    sae: Sae = None,
    sae_pooling: SaePooling = None,
    limit: Limit = None,
    seed: Seed = None,
    device: Device = None,
    batch_size: BatchSize = None,
    workers: Workers = None,
    cache: Cache = None,
    checkpoint: Checkpoint = None,
    weights: Weights = None,
    preprocess: Preprocess = None,
    decode: Decode = None,
    precision: Precision = None,
    as_json: Json = False,
) -> None:
    """Only fill the cache with activations and embeddings; `label` with the same settings then finds them there."""
    own = {
        "target": target,
        "layer": layer,
        "encoder": encoder,
        "images": images,
        "sae": sae,
        "sae_pooling": sae_pooling,
        "limit": limit,
        "seed": seed,
        "device": device,
        "batch_size": batch_size,
        "workers": workers,
        "cache": str(cache) if cache else None,
        "decode": decode,
        "precision": precision,
    }
    options = {"pooling": pooling, "checkpoint": checkpoint, "weights": weights, "preprocess": preprocess}
    settings = _settings(config, {**own, **options}, needed=("target", "encoder", "images"))
    from contralens.collecting.distributed import Job, collect_ray, collect_shard
    from contralens.report.progress import bar

    job = Job(
        **{key: value for key, value in settings.items() if key in own},
        target_options={key: value for key, value in settings.items() if key in options},
    )
    if engine == "ray":
        if shard is not None:
            raise InputError("--shard goes with the local engine; Ray shares out the tiles itself")
        done = collect_ray(job, gpus_per_actor=0.0 if job.device in (None, "cpu") else 1.0)
    elif engine in (None, "local"):
        i, slash, n = (shard or "0/1").partition("/")
        if not (slash and i.isdigit() and n.isdigit()):
            raise InputError(f"--shard is written i/n, e.g. 0/8 for the first of eight; got {shard!r}")
        with bar(quiet=as_json) as progress:
            done = collect_shard(job, int(i), int(n), progress)
    else:
        raise InputError(f'--engine must be "local" or "ray"; got {engine!r}')
    speed, cache_folder = done.speed.summary(), job.store().root
    if as_json:
        _print_json({"tiles": done.tiles, "of": done.total, "cache": str(cache_folder), **speed})
        return
    typer.echo(f"{done.tiles} of {done.total} tiles collected, cache {cache_folder}")
    if speed["images"]:
        typer.echo(
            f"{speed['images']:,} images at {speed['images_per_second']:,.1f} a second, "
            f"{speed['forward_share']:.0%} of the time in the networks"
        )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("contralens-demo"),
    world: Annotated[list[int] | None, typer.Option(help="World 1, 2 or 3, repeatable (default: all three).")] = None,
    images: Annotated[int, typer.Option(help="Probe images of each world; fewer are quicker and less sure.")] = 2000,
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Label networks whose truth is known, in three rendered worlds, and count the labels that are right."""
    from contralens.demo import demo as run_demo
    from contralens.demo import summary
    from contralens.report.progress import bar
    from contralens.report.tables import demo_table
    from contralens.world.targets import WORLDS

    with bar(quiet=as_json) as progress:
        runs, judged = run_demo(out, worlds=world or tuple(WORLDS), images=images, cache=cache, progress=progress)
    pages = [_report(run) for run in runs]
    if as_json:
        _print_json(
            {"results": summary(judged), "runs": [str(run.path) for run in runs], "reports": list(map(str, pages))}
        )
        return
    demo_table(summary(judged))
    typer.echo(f"\nall figures: {out / 'demo.json'}; one run and report for each world and kind of neuron:")
    for page in pages:
        typer.echo(f"  {page}")
    typer.echo(f"look at one: python -m webbrowser {pages[-1].resolve().as_uri()}")


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    neuron: Annotated[str, typer.Argument(help="A neuron's index or name.")],
    as_json: Json = False,
) -> None:
    """Show one neuron: its labels by every scorer, its exemplars and their contrasts."""
    from contralens.data.runs import load

    opened = load(run)
    found = opened.neuron(neuron)
    if as_json:
        _print_json(found)
        return
    from contralens.report.tables import neuron_table

    neuron_table(opened, found)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="File to write (default: report.html in the run).")] = None,
    most: Annotated[int, typer.Option(help="Neurons shown with pictures.")] = 200,
) -> None:
    """Write the HTML report of a run: one file with everything in it."""
    from contralens.data.runs import load
    from contralens.report.html import write_report

    typer.echo(f"wrote {write_report(load(run), out, most=most)}")


@app.command()
def layers(
    target: Annotated[str, typer.Argument(help="The network, as in `label --target`.")],
    checkpoint: Checkpoint = None,
    weights: Weights = None,
    preprocess: Preprocess = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """List a network's layers: output shape, neurons, and the pooling that would be used."""
    from contralens.models.targets import layers as list_layers

    options: dict[str, Any] = {"checkpoint": checkpoint, "weights": weights, "preprocess": preprocess, "device": device}
    found = list_layers(target, **{key: value for key, value in options.items() if value is not None})
    if as_json:
        from dataclasses import asdict

        _print_json([asdict(layer) for layer in found])
        return
    from contralens.report.tables import layers_table

    layers_table(found)


@app.command()
def vocab(
    name: Annotated[
        str | None, typer.Argument(help="A file or a built-in name; without it the built-in ones are listed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the built-in vocabularies, or check one: what was merged, dropped or is too long."""
    from contralens.data.vocabulary import VOCABULARIES, read_vocabulary

    if name is None:
        _pairs({name: VOCABULARIES.about(name) for name in VOCABULARIES}, as_json)
        return
    words = read_vocabulary(name)
    if as_json:
        _print_json({"source": words.source, "concepts": list(words.concepts), "report": words.lint.lines()})
        return
    typer.echo(f"{len(words.concepts)} concepts from {words.source}, e.g. {', '.join(words.concepts[:5])}")
    for line in words.lint.lines():
        typer.echo(f"  {line}")


@app.command()
def encoders(as_json: Json = False) -> None:
    """List the ways to name an image-text encoder."""
    from contralens.models.encoders import ENCODERS

    _pairs({scheme.form: scheme.about for scheme in ENCODERS.values()}, as_json)


@app.command()
def proposers(as_json: Json = False) -> None:
    """List who can propose candidate labels: vision-language models and caption banks."""
    from contralens.models.proposers import PROPOSERS

    _pairs({scheme.form: scheme.about for scheme in PROPOSERS.values()}, as_json)


@app.command()
def targets(as_json: Json = False) -> None:
    """List the ways to name a network."""
    from contralens.models.targets import TARGETS

    _pairs({f"{name}:": TARGETS.about(name) for name in TARGETS}, as_json)


app.command("propose")(propose_command)
app.command("export-labels")(export_labels_command)
app.command("import-labels")(import_labels_command)
app.command("push")(push_command)
app.command("pull")(pull_command)
app.command("granularity")(granularity_command)
app.command("evaluate")(evaluate_command)
app.command("audit")(audit_command)
app.command("compare")(compare_command)
app.command("recipe")(recipe_command)
app.add_typer(bench_app, name="bench")
app.command("maps")(maps_command)
app.command("explore")(explore_command)
app.command("export")(export_command)
app.command("world")(world_command)


def _settings(config: Path | None, flags: dict[str, Any], needed: tuple[str, ...]) -> dict[str, Any]:
    """Settings of the config file and the flags together, after a look that none of `needed` is missing."""
    from contralens.config import merge, read_config

    settings = merge(read_config(config) if config else {}, flags)
    for name in needed:
        if name not in settings:
            raise InputError(f"--{name} is missing; --help says what it takes")
    return settings


def _layers(settings: dict[str, Any]) -> list[str]:
    """Takes several layers out of the settings of `label`; a single one stays there, as text."""
    layer = settings.get("layer")
    if not isinstance(layer, (list, tuple)):
        return []
    if len(layer) == 1:
        settings["layer"] = layer[0]
        return []
    return [str(name) for name in settings.pop("layer")]


def _report(run: Any) -> Path:
    from contralens.report.html import write_report

    return write_report(run)


def _pairs(pairs: dict[str, str], as_json: bool) -> None:
    if as_json:
        _print_json(pairs)
        return
    for name, about in pairs.items():
        typer.echo(f"{name}\n    {about}")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _warn(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    print(f"contralens: warning: {' '.join(str(message).split())}", file=sys.stderr)


_UsageError: Any = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)  # click may be vendored


def main() -> None:
    """Entry point: what the user got wrong is one line on stderr and exit code 2."""
    warnings.showwarning = _warn
    try:
        result = app(standalone_mode=False)
    except InputError as e:
        print(f"contralens: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)
    except _UsageError as e:
        print(f"contralens: {' '.join(e.format_message().split())}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("contralens: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(result if isinstance(result, int) else 0)
