"""The commands `contralens bench world`, `leaderboard` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from contralens.checks import FAKES
from contralens.commands.options import Json, print_json
from contralens.errors import InputError

if TYPE_CHECKING:
    from contralens.bench.cases import Kind

app = typer.Typer(help="Benchmarks with known truth.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None: ...


@app.command("world")
def world_command(
    dial: Annotated[
        list[float] | None,
        typer.Option(
            help="Co-occurrence rate of confounder and true factor, 0 to 1, repeatable (default: seven values)."
        ),
    ] = None,
    world: Annotated[
        list[int] | None, typer.Option(help="World 1 to 6 (version 2: to 7), repeatable (default: all).")
    ] = None,
    scorer: Annotated[
        list[str] | None, typer.Option(help="Scorer, repeatable (default: all); differences are relative to csp.")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Neurons: planted, trained (default) or pairs (planted, fire for two levels), repeatable."),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed of a probe set, repeatable (default: 5 and 6).")] = None,
    images: Annotated[int, typer.Option(help="Images per probe set.")] = 2000,
    edition: Annotated[
        int, typer.Option(help="Version of the benchmark, 1 or 2; decides encoder, worlds and default seeds.")
    ] = 1,
    nuisance: Annotated[
        str, typer.Option(help="Nuisances of version 2: none, texture, occlusion, objects, blur, all.")
    ] = "none",
    k: Annotated[int, typer.Option("--k", "-k", help="Exemplars per neuron.")] = 30,
    fakes: Annotated[int, typer.Option(help="Number of null neurons in the null test.")] = FAKES,
    fdr: Annotated[float, typer.Option(help="False-discovery rate above which a label counts as abstention.")] = 0.05,
    out: Annotated[
        Path | None, typer.Option(help="Folder for world.json, world.parquet (a row per neuron) and world.png.")
    ] = None,
    docs: Annotated[Path | None, typer.Option(help="Markdown file to update: tables between markers.")] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="Markdown file to check: exit code 1 if a mean is outside its tables' intervals."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure every scorer against known truth.

    Uses rendered worlds in which a confounder accompanies the true factor.

    About three minutes on two cores.
    """
    from contralens.bench.cases import KINDS
    from contralens.bench.versions import version
    from contralens.bench.world_bench import BENCHED, world_bench
    from contralens.report import world_bench as paper
    from contralens.report.progress import bar

    if out is not None:
        _check_out(out)
    frozen = version(edition)
    with bar(quiet=as_json) as progress:
        bench = world_bench(
            scorer or BENCHED, worlds=world or tuple(frozen.worlds), dials=dial or frozen.dials,
            seeds=seed or frozen.seeds, kinds=cast("list[Kind]", kind or list(KINDS)), images=images, k=k, fakes=fakes,
            fdr=fdr, edition=edition, nuisances=nuisance, progress=progress,
        )  # fmt: skip
    found = bench.to_dict()
    written = _save(bench, found, out) if out is not None else []
    if docs is not None:
        paper.write_into(docs, paper.markdown(found))
        written.append(docs)
    verdict: dict[str, Any] = {}
    if check is not None:
        shared, wrong = paper.outside(found, check.read_text(encoding="utf-8"))
        verdict = {"check": {"document": str(check), "cells": shared, "outside": wrong}}
    if as_json:
        print_json({**found, **verdict, "written": [str(p) for p in written]})
    else:
        _print_bench(found)
        for path in written:
            typer.echo(f"wrote {path}")
        if verdict:
            typer.echo(
                "\n".join([*wrong, f"{shared - len(wrong)} of {shared} means are within the intervals of {check}"])
            )
    if verdict and (wrong or not shared):
        raise typer.Exit(1)


@app.command("meanings")
def meanings_command(
    world: Annotated[list[int] | None, typer.Option(help="World 1 to 6, repeatable (default: 1 and 2).")] = None,
    dial: Annotated[
        list[float] | None,
        typer.Option(help="Co-occurrence rate of confounder and true factor, 0 to 1, repeatable (default: 0.7)."),
    ] = None,
    scorer: Annotated[
        list[str] | None, typer.Option(help="Scorer, repeatable (default: csp and semanticlens).")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed of a probe set, repeatable (default: 1 and 2).")] = None,
    neurons: Annotated[int, typer.Option(help="Planted neurons of each number of meanings, per probe set.")] = 24,
    images: Annotated[int, typer.Option(help="Images per probe set.")] = 2000,
    k: Annotated[int, typer.Option("--k", "-k", help="Exemplars per neuron.")] = 30,
    as_json: Json = False,
) -> None:
    """Measure the search for meanings on planted neurons.

    Neurons with one to four meanings: how often their number is found, and how often each meaning is named.
    """
    from contralens.bench.meanings_bench import MEASURES, TRUE_COUNTS, meanings_bench
    from contralens.report.progress import bar
    from contralens.report.world_bench import cell

    with bar(quiet=as_json) as progress:
        found = meanings_bench(
            scorer or ("csp", "semanticlens"), worlds=world or (1, 2), dials=dial or (0.7,), seeds=seed or (1, 2),
            neurons=neurons, images=images, k=k, progress=progress,
        ).to_dict()  # fmt: skip
    if as_json:
        print_json(found)
        return
    nan = float("nan")
    for name in found["settings"]["scorers"]:
        rows = {(r["measure"], r["meanings"]): r for r in found["rows"] if r["scorer"] == name}
        print(f"{name}\n{'true number of meanings':24}" + "".join(f"{count:>18}" for count in TRUE_COUNTS))
        for measure in MEASURES:
            told = [rows[measure, count] for count in TRUE_COUNTS]
            filled = [[nan if r[key] is None else r[key] for key in ("mean", "low", "high")] for r in told]
            cells = [cell((mean, low, high)) for mean, low, high in filled]
            print(f"{measure:24}" + "".join(f"{text:>18}" for text in cells))
        print()


_WORLDS = Annotated[list[int] | None, typer.Option("--world", help="World 1 to 7, repeatable (default: all).")]
_SEEDS = Annotated[list[int] | None, typer.Option("--seed", help="Seed of a probe set, repeatable (default: 31, 32).")]
_IMAGES = Annotated[int | None, typer.Option(help="Images per probe set (default: 2000).")]


@app.command("leaderboard")
def leaderboard_command(
    scorer: Annotated[
        list[str] | None, typer.Option(help="Scorer, also FILE.py:NAME, repeatable (default: all).")
    ] = None,
    world: _WORLDS = None,
    dial: Annotated[list[float] | None, typer.Option(help="Dial, repeatable (default: 0, 0.5, 0.9).")] = None,
    seed: _SEEDS = None,
    images: _IMAGES = None,
    out: Annotated[Path | None, typer.Option(help="Folder for leaderboard.json and leaderboard.md.")] = None,
    docs: Annotated[Path | None, typer.Option(help="Markdown file to update: the table between markers.")] = None,
    as_json: Json = False,
) -> None:
    """Rank scorers on version 2 of the world benchmark.

    A row per scorer: share of labels right and exact with 95 % intervals, with and without nuisances, CPU time, memory.
    Settings other than the frozen ones are listed with the table.
    """
    import json

    from contralens.bench.leaderboard import leaderboard
    from contralens.bench.world_bench import BENCHED
    from contralens.data.atomic_files import write_whole
    from contralens.report import leaderboard as paper
    from contralens.report.progress import bar

    with bar(quiet=as_json) as progress:
        board = leaderboard(scorer or BENCHED, worlds=world, dials=dial, seeds=seed, images=images, progress=progress)
    written = []
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "leaderboard.json", (json.dumps(board, indent=1) + "\n").encode())
        write_whole(out / "leaderboard.md", paper.markdown(board).encode())
        written += [out / "leaderboard.json", out / "leaderboard.md"]
    if docs is not None:
        paper.write_into(docs, paper.markdown(board))
        written.append(docs)
    if as_json:
        print_json({**board, "written": [str(path) for path in written]})
        return
    print(paper.plain_table(board))
    for path in written:
        typer.echo(f"wrote {path}")


@app.command("export")
def export_command(
    out: Annotated[Path, typer.Argument(help="New folder to write.")],
    world: _WORLDS = None,
    dial: Annotated[list[float] | None, typer.Option(help="Dial, repeatable (default: seven values).")] = None,
    seed: _SEEDS = None,
    nuisance: Annotated[
        list[str] | None,
        typer.Option(help="none, texture, occlusion, objects, blur or all; repeatable (default: none)."),
    ] = None,
    images: _IMAGES = None,
    pictures: Annotated[bool, typer.Option(help="Write the pictures, about 12 kB each.")] = True,
) -> None:
    """Write version 2 of the world benchmark as plain files.

    Pictures (PNG), scenes (Parquet), activations, embeddings and truth (safetensors), to use without contralens.
    """
    from contralens.bench.export import export_benchmark
    from contralens.report.progress import bar

    with bar() as progress:
        folders = export_benchmark(
            out, worlds=world, dials=dial, seeds=seed, nuisances=nuisance or ("none",), images=images,
            pictures=pictures, progress=progress,
        )  # fmt: skip
    typer.echo(f"{len(folders)} probe sets in {out}; {out / 'benchmark.json'} lists them")


def _check_out(out: Path) -> None:
    """Raise if a file would be overwritten that is no older result."""
    import json

    there = [name for name in ("world.json", "world.parquet", "world.png") if (out / name).exists()]
    try:
        ours = not there or "settings" in json.loads((out / "world.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        ours = False
    if not ours:
        first = out / there[0]
        raise InputError(f"{first} is not a result of this benchmark and would be overwritten; choose another --out")


def _save(bench: Any, found: dict[str, Any], out: Path) -> list[Path]:
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    from contralens.data.atomic_files import write_whole
    from contralens.report.world_bench import plot

    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "world.json", (json.dumps(found, indent=1) + "\n").encode())
    buffer = pa.BufferOutputStream()
    pq.write_table(bench.table(), buffer)
    write_whole(out / "world.parquet", buffer.getvalue().to_pybytes())
    drawn = plot(found, out / "world.png")
    return [out / "world.json", out / "world.parquet", *([drawn] if drawn else [])]


def _print_bench(found: dict[str, Any]) -> None:
    """Every table, a scorer in three lines, so that seven dials fit a terminal of 80 columns."""
    from contralens.report.world_bench import NOTHING, TITLES, cell, numbers

    cells, s = numbers(found), found["settings"]
    for kind in s["kinds"]:
        for name, title in TITLES.items():
            own = {key[2:]: value for key, value in cells.items() if key[:2] == (kind, name)}
            if not own:
                continue
            print(f"{kind} neurons, {title}\n\n" + "".join(f"{d:>11g}" for d in s["dials"]) + "  <- dial")
            for scorer in dict.fromkeys(key[0] for key in own):
                told = [cell(own.get((scorer, d), NOTHING), name == "difference") for d in s["dials"]]
                means, intervals = zip(*(text.replace("0.", ".").partition(" ")[::2] for text in told), strict=True)
                print(scorer)
                print("".join(f"{text:>11}" for text in means))
                print("".join(f"{text.strip('()'):>11}" for text in intervals))
            print()
