"""The commands `contralens bench world`, `leaderboard` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from contralens.commands.flags import Given, with_flags
from contralens.commands.options import Json, print_json
from contralens.errors import InputError
from contralens.settings.bench import ExportedBenchmark, Leaderboard, MeaningsBenchmark, WorldBenchmark
from contralens.settings.record import help_of, read

app = typer.Typer(help="Benchmarks with known truth.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None: ...


@app.command("world")
@with_flags(WorldBenchmark)
def world_command(
    given: Given,
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
    from contralens.bench.world_bench import world_bench
    from contralens.report import world_bench as paper
    from contralens.report.progress import bar

    if out is not None:
        _check_out(out)
    with bar(quiet=as_json) as progress:
        bench = world_bench(**read(WorldBenchmark, given), progress=progress)
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
@with_flags(MeaningsBenchmark)
def meanings_command(given: Given, as_json: Json = False) -> None:
    """Measure the search for meanings on planted neurons.

    Neurons with one to four meanings: how often their number is found, and how often each meaning is named.
    """
    from contralens.bench.meanings_bench import MEASURES, TRUE_COUNTS, meanings_bench
    from contralens.report.progress import bar
    from contralens.report.world_bench import cell

    with bar(quiet=as_json) as progress:
        found = meanings_bench(**read(MeaningsBenchmark, given), progress=progress).to_dict()
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


@app.command("leaderboard")
@with_flags(Leaderboard, without=("fakes",))
def leaderboard_command(
    given: Given,
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
    from contralens.data.atomic_files import write_whole
    from contralens.report import leaderboard as paper
    from contralens.report.progress import bar
    from contralens.report.world_bench import write_into

    with bar(quiet=as_json) as progress:
        board = leaderboard(**read(Leaderboard, given), progress=progress)
    written = []
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "leaderboard.json", (json.dumps(board, indent=1) + "\n").encode())
        write_whole(out / "leaderboard.md", paper.markdown(board).encode())
        written += [out / "leaderboard.json", out / "leaderboard.md"]
    if docs is not None:
        write_into(docs, paper.markdown(board))
        written.append(docs)
    if as_json:
        print_json({**board, "written": [str(path) for path in written]})
        return
    print(paper.plain_table(board))
    for path in written:
        typer.echo(f"wrote {path}")


@app.command("export")
@with_flags(ExportedBenchmark, without=("out",))
def export_command(given: Given, out: Annotated[Path, typer.Argument(help=help_of(ExportedBenchmark, "out"))]) -> None:
    """Write version 2 of the world benchmark as plain files.

    Pictures (PNG), scenes (Parquet), activations, embeddings and truth (safetensors), to use without contralens.
    """
    from contralens.bench.export import export_benchmark
    from contralens.report.progress import bar

    with bar() as progress:
        folders = export_benchmark(out, **read(ExportedBenchmark, given), progress=progress)
    typer.echo(f"{len(folders)} probe sets in {out}; {out / 'benchmark.json'} lists them")


def _check_out(out: Path) -> None:
    """Raise if a file would be overwritten that is no older result."""
    from contralens.data.seals import read_object

    there = [name for name in ("world.json", "world.parquet", "world.png") if (out / name).exists()]
    if there and "settings" not in (read_object(out / "world.json") or {}):
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
