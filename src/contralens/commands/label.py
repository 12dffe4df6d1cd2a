"""The commands `contralens label` and `contralens collect`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from contralens.commands.flags import Given, settings_from, with_flags
from contralens.commands.options import Config, Json, TrustConfig, print_json
from contralens.commands.propose import print_plan
from contralens.errors import InputError
from contralens.settings.label import Collect, LabelCommand
from contralens.settings.propose import Backends, arguments
from contralens.settings.record import read

FEW = 3
"""Runs whose labels the terminal lists."""


@with_flags(LabelCommand)
def label_command(given: Given, config: Config = None, trust_code: TrustConfig = False, as_json: Json = False) -> None:
    """Label the neurons of a layer.

    Writes a run folder with labels, evidence and an HTML report. It needs --target, --layer, --encoder, --images and
    --vocabulary, here or in --config. To try it: contralens world 1 --out w; contralens label --target world:1 --layer
    block3 --encoder world --images w/images --vocabulary world
    """
    needed = ("target", "encoder", "images", "vocabulary")
    settings = settings_from(LabelCommand, given, needed, config=config, trust_code=trust_code)
    settings.setdefault("out", "contralens-run")
    if (asked := settings.get("proposing")) is not None:
        if "proposer" not in settings:
            raise InputError("--propose needs --proposer, which is missing")
        settings["proposing"] = arguments(read(Backends, asked, "--propose: "))
    if "proposer" in settings:
        settings["proposing"] = {**settings.get("proposing", {}), "on_plan": None if as_json else print_plan}
    with_report = settings.pop("report", True)
    from contralens.collecting.layer_plan import means_several
    from contralens.report.html import write_report
    from contralens.report.progress import bar

    several = means_several(settings.get("layer"), settings.get("layer_kinds"))
    with bar(quiet=as_json) as progress:
        if several:
            from contralens.labeling.layers import label_layers

            layers = settings.pop("layer", None) or "all"
            more: dict[str, Any] = {"layers": layers, "on_plan": _told(as_json), "progress": progress}
            runs = list(label_layers(**settings, **more).values())
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
    if len(runs) > FEW:
        _many(runs, settings["out"])
        return
    from contralens.report.tables import labels_table, summary

    for run, page in zip(runs, pages, strict=True):
        labels_table(run)
        summary(run, page)


def _many(runs: list[Any], out: Any) -> None:
    """Many runs on the terminal: a line for each layer."""
    from contralens.data.atlases import atlas_of
    from contralens.report.atlas_tables import atlas_tables

    atlas_tables(atlas_of(runs), 0)
    typer.echo(f"run folders: {out}/LAYER\nnext:        contralens atlas {out}   (or contralens explore {out})")


def _told(quiet: bool) -> Callable[[Any], None] | None:
    """Where patterns or kinds choose layers, a list on stderr says which before anything is computed."""
    if quiet:
        return None
    from contralens.report.layer_tables import plan_table

    return plan_table


@with_flags(Collect)
def collect_command(
    given: Given,
    config: Config = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: process part i of n (from 0), for SLURM, torchrun or any job system.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help='"local" (default) or "ray".')] = None,
    trust_code: TrustConfig = False,
    as_json: Json = False,
) -> None:
    """Precompute activations and embeddings for later `label` runs.

    `label` with the same settings reads them from the cache.
    """
    needed = ("target", "encoder", "images")
    job = Collect(**settings_from(Collect, given, needed, config=config, trust_code=trust_code))
    from contralens.collecting.distributed import collect_ray, collect_shard
    from contralens.collecting.layer_plan import with_layers
    from contralens.data.store import Store
    from contralens.report.progress import bar

    named = with_layers(job, _told(as_json))
    if engine == "ray":
        if shard is not None:
            raise InputError("--shard needs the local engine; Ray distributes the tiles itself")
        job = named.to(Collect, target=job.target)  # workers open the network themselves
        done = collect_ray(job, gpus_per_actor=0.0 if job.device in (None, "cpu") else 1.0)
    elif engine in (None, "local"):
        i, slash, n = (shard or "0/1").partition("/")
        if not (slash and i.isdigit() and n.isdigit()):
            raise InputError(f"--shard is written i/n, e.g. 0/8 for the first of eight; got {shard!r}")
        with bar(quiet=as_json) as progress:
            done = collect_shard(named, int(i), int(n), progress)
    else:
        raise InputError(f'--engine must be "local" or "ray"; got {engine!r}')
    speed: dict[str, Any] = done.speed.summary()
    cache = Store(job.cache).root
    if as_json:
        print_json({"tiles": done.tiles, "of": done.total, "cache": str(cache), **speed})
        return
    typer.echo(f"{done.tiles} of {done.total} tiles collected, cache {cache}")
    if speed["images"]:
        typer.echo(
            f"{speed['images']:,} images at {speed['images_per_second']:,.1f} a second, "
            f"{speed['forward_share']:.0%} of the time in the networks"
        )
