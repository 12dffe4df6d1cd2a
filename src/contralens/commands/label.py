"""The commands `contralens label` and `contralens collect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from contralens.checks import InputError
from contralens.commands.options import (
    AllowNondeterministic,
    BatchSize,
    Cache,
    Checkpoint,
    Config,
    Decode,
    Device,
    Encoder,
    Groups,
    Images,
    Json,
    Layer,
    Limit,
    Pooling,
    Precision,
    PrefixTokens,
    Preprocess,
    RankBy,
    Replace,
    Sae,
    SaePooling,
    Seed,
    Target,
    TrustConfig,
    Weights,
    Workers,
    indices,
    print_json,
)
from contralens.commands.propose import arguments, print_plan, read_settings

PLURAL = {"scorer": "scorers", "template": "templates"}
"""Repeatable flags, and what the setting is called."""
TARGET_OPTIONS = {"pooling", "checkpoint", "weights", "preprocess", "prefix_tokens"}
"""Settings that say how the target is made."""


def label_command(
    target: Target = None,
    layer: Layer = None,
    encoder: Encoder = None,
    images: Images = None,
    vocabulary: Annotated[
        str | None,
        typer.Option(
            help="Concepts to choose from: a file (one a line, JSON, YAML, TABLE.csv:COLUMN), or a built-in name."
        ),
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            help="Scorer, repeatable; the last is the primary (default: semanticlens, clip_dissect, csp:gamma=0, csp). "
            "auto: the label with the highest confidence."
        ),
    ] = None,
    confidence: Annotated[
        bool | None,
        typer.Option("--confidence/--no-confidence", help="Say how likely each label is right, and why (default)."),
    ] = None,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            help="Neurons whose truth is known set the level of confidence, repeatable: outputs (the network's own), "
            "or planted on what the images show: classes, TABLE:COLUMN."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to write (default: contralens-run).")] = None,
    replace: Replace = None,
    config: Config = None,
    pooling: Pooling = None,
    sae: Sae = None,
    sae_pooling: SaePooling = None,
    k: Annotated[int | None, typer.Option("--k", "-k", help="Exemplars per neuron (default 30).")] = None,
    rank_by: RankBy = None,
    crop: Annotated[
        str | None,
        typer.Option(help='Compare crops to where the neuron fires: by its "map", or by "relevance" of pixels.'),
    ] = None,
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
    groups: Groups = None,
    per_group: Annotated[
        int | None, typer.Option(help="Exemplars of a neuron from one group at most (default 1); goes with --groups.")
    ] = None,
    fdr: Annotated[
        float | None,
        typer.Option(
            help="Null test at this false-discovery rate, e.g. 0.05: no label where none beats random images."
        ),
    ] = None,
    fakes: Annotated[int | None, typer.Option(help="Null neurons of the null test (default 1000).")] = None,
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
    prefix_tokens: PrefixTokens = None,
    decode: Decode = None,
    precision: Precision = None,
    allow_nondeterministic: AllowNondeterministic = None,
    report: Annotated[
        bool | None, typer.Option("--report/--no-report", help="Write report.html into the run (default).")
    ] = None,
    trust_code: TrustConfig = False,
    as_json: Json = False,
) -> None:
    """Label the neurons of a layer.

    Writes a run folder with labels, evidence and an HTML report. It needs --target, --layer, --encoder, --images and
    --vocabulary, here or in --config. To try it: contralens world 1 --out w; contralens label --target world:1 --layer
    block3 --encoder world --images w/images --vocabulary world
    """
    flags = {PLURAL.get(name, name): value for name, value in locals().items() if name not in ("config", "as_json")}
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
    from contralens.report.html import write_report
    from contralens.report.progress import bar

    several = _layers(settings)
    with bar(quiet=as_json) as progress:
        if several:
            from contralens.labeling.layers import label_layers

            runs = list(label_layers(**settings, layers=several, progress=progress).values())
        else:
            from contralens.labeling.label import label

            runs = [label(**settings, progress=progress)]
    pages = [write_report(run) if with_report else None for run in runs]
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
        print_json({"runs": told} if several else told[0])
        return
    from contralens.report.tables import labels_table, summary

    for run, page in zip(runs, pages, strict=True):
        labels_table(run)
        summary(run, page)


def collect_command(
    target: Target = None,
    layer: Layer = None,
    encoder: Annotated[
        list[str] | None, typer.Option(help="The image-text encoder, repeatable: open_clip:ARCH/TAG, hf:ID, offline.")
    ] = None,
    images: Images = None,
    config: Config = None,
    rank_by: RankBy = None,
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
    prefix_tokens: PrefixTokens = None,
    decode: Decode = None,
    precision: Precision = None,
    allow_nondeterministic: AllowNondeterministic = None,
    trust_code: TrustConfig = False,
    as_json: Json = False,
) -> None:
    """Only fill the cache, for `label` to find all there.

    Activations and embeddings are computed once; `label` with the same settings then finds them.
    """
    flags = {n: v for n, v in locals().items() if n not in ("config", "shard", "engine", "as_json")}
    flags["cache"] = str(cache) if cache else None
    settings = _settings(config, flags, needed=("target", "encoder", "images"))
    from contralens.collecting.distributed import Job, collect_ray, collect_shard
    from contralens.report.progress import bar

    job = Job(
        **{name: value for name, value in settings.items() if name in flags.keys() - TARGET_OPTIONS},
        target_options={name: value for name, value in settings.items() if name in TARGET_OPTIONS},
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
        print_json({"tiles": done.tiles, "of": done.total, "cache": str(cache_folder), **speed})
        return
    typer.echo(f"{done.tiles} of {done.total} tiles collected, cache {cache_folder}")
    if speed["images"]:
        typer.echo(
            f"{speed['images']:,} images at {speed['images_per_second']:,.1f} a second, "
            f"{speed['forward_share']:.0%} of the time in the networks"
        )


def _settings(config: Path | None, flags: dict[str, Any], needed: tuple[str, ...]) -> dict[str, Any]:
    """Settings of the config file and the flags together, after a look that none of `needed` is missing."""
    from contralens.config import check_code, merge, read_config

    trust_code = flags.pop("trust_code")
    given = read_config(config) if config else {}
    settings = merge(given, flags)
    if config:
        check_code(
            {key: value for key, value in given.items() if settings[key] is value}, config, trust_code,
            ", or give it as an argument of the command",
        )  # fmt: skip
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
