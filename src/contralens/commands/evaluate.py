"""The commands `contralens evaluate` and `contralens compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from contralens.commands.flags import Given, with_flags
from contralens.commands.options import Json, RunFolder, TrustCode, TrustConfig, print_json
from contralens.settings.finished_run import Compare, Evaluate
from contralens.settings.label import Label
from contralens.settings.record import help_of, read

MOVES = ("same", "down", "sideways", "up", "unknown")


@with_flags(Evaluate, without=("run", "save"))
def evaluate_command(
    given: Given,
    run: RunFolder,
    mixtures: Annotated[
        bool, typer.Option("--mixtures", help="Null neurons are random mixtures of real ones: --fake-kind mixture.")
    ] = False,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> None:
    """Measure how good a run's labels are, on held-out images.

    Measures faithfulness, specificity, stability and the null test; saves the result in the run's folder.
    """
    settings = {**read(Evaluate, given), **({"fake_kind": "mixture"} if mixtures else {})}
    from contralens.data.runs import load
    from contralens.evaluation.evaluate import evaluate
    from contralens.report.progress import bar

    opened = load(run, trust_code=trust_code)
    with bar(quiet=as_json) as progress:
        result = evaluate(opened, **settings, progress=progress)
    if as_json:
        print_json(
            {
                "out": str(result.path), "manifest": result.manifest, "summary": result.summary.to_pylist(),
                "verdicts": result.verdicts.to_pylist(), "values": result.values.to_pylist(),
            }
        )  # fmt: skip
        return
    _print_evaluation(result)


@with_flags(Compare, without=("runs",))
def compare_command(
    given: Given,
    runs: Annotated[list[Path], typer.Argument(help=help_of(Compare, "runs"))],
    out: Annotated[Path | None, typer.Option(help="Folder for parquet tables, comparison.json and plots.")] = None,
    most: Annotated[int, typer.Option(help="Changed labels to show.")] = 20,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Show every pair, with differences, intervals and win/tie/loss.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare runs, or the scorers of one run.

    Prints one table of means per scorer, with differences from the primary scorer (or the first run) marked, and
    the labels that changed.
    """
    from contralens.evaluation.compare import compare

    found = compare(runs, **read(Compare, given))
    written = found.save(out) if out is not None else []
    if as_json:
        print_json({**found.to_dict(), "written": [str(p) for p in written]})
        return
    from contralens.report.compare_tables import compare_tables

    compare_tables(found, most, pairs)
    for path in written:
        typer.echo(f"wrote {path}")


@with_flags(Label, only=("replace", "cache", "device"))
def recipe_command(
    given: Given,
    recipe: Annotated[Path, typer.Argument(help="A YAML file such as recipes/resnet50-layer4.yaml.")],
    out: Annotated[Path, typer.Option(help="Folder for the run folders.")] = Path("contralens-recipe"),
    check: Annotated[bool, typer.Option("--check", help="Check requirements; run nothing.")] = False,
    trust_code: TrustConfig = False,
    as_json: Json = False,
) -> None:
    """Reproduce a published experiment, its numbers beside ours."""
    from contralens.data.runs import load
    from contralens.evaluation.recipes import follow, lacking, read_recipe
    from contralens.report.audit_page import write_audit_page
    from contralens.report.progress import bar

    made = read_recipe(recipe, trust_code=trust_code)
    if check:
        missing = lacking(made)
        if as_json:
            print_json({"recipe": str(recipe), "lacking": missing})
        else:
            typer.echo("\n".join(missing) or f"all that {recipe} needs is here (models are fetched when they are used)")
        raise typer.Exit(1 if missing else 0)
    with bar(quiet=as_json) as progress:
        rows = follow(made, out, **read(Label, given), progress=progress)
    audited = [out / name for name, steps in made["runs"].items() if steps.get("audit")]
    pages = [write_audit_page(load(folder)) for folder in audited]
    if as_json:
        print_json({"out": str(out), "rows": rows, "audits": [str(page) for page in pages]})
        return
    from rich.markup import escape
    from rich.table import Table

    from contralens.report.compare_tables import interval, number
    from contralens.report.console import console

    table = Table("run", "scorer", "metric", "published", "here", "95 % interval", "source", box=None, pad_edge=False)
    for row in rows:
        table.add_row(
            row["run"], escape(row["scorer"]), row["metric"], number(row["published"]), number(row["mean"]),
            interval(row), escape(row["source"]),
        )  # fmt: skip
    if rows:
        console().print(table)
    for folder, page in zip(audited, pages, strict=True):
        from contralens.data.audits import load_audit
        from contralens.report.audit_tables import audit_tables

        audit_tables(load_audit(folder), most=5)
        typer.echo(f"page: {page}")
    typer.echo(f"runs: {out}   (compare them with: contralens compare {' '.join(str(out / n) for n in made['runs'])})")


def _print_evaluation(result: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    from contralens.data.answers import NO_LABEL
    from contralens.report.compare_tables import interval, number
    from contralens.report.console import console

    m = result.manifest
    table = Table(box=None, pad_edge=False)
    for name in ("metric", "mean", "95 % interval", "neurons", "undefined", "sane"):
        table.add_column(name, no_wrap=True)
    rows = result.summary.to_pylist()
    for scorer in dict.fromkeys(row["scorer"] for row in rows):
        table.add_row(f"[bold]{escape(scorer)}[/bold]")
        for row in rows:
            if row["scorer"] == scorer:
                table.add_row(
                    f"  {row['metric']}", number(row["mean"]), interval(row), str(row["neurons"]),
                    str(row["undefined"]), _sane(row, m["sanity"]),
                )  # fmt: skip
    console().print(table)
    print(
        "\nsane: whether the metric falls both when half of a concept's images miss it (too specific) and when as many"
    )
    print("extras have it (too general); where true names are known: and whether it ranks most wrong labels below them")
    if truth := m.get("truth"):
        print(f"right: share of right labels among {truth['neurons']} neurons whose truth is known ({truth['source']})")
    if judge := m["judge"]:
        own = (
            " - the labeling encoder itself, which favours its own labels" if judge["same_as_labeling_encoder"] else ""
        )
        print(f"judge: {judge['name']}{own}")
    if m["images"]:
        print(f"held out: {m['images']['test']} images to test on, {m['images']['validation']} to fit on")
    if m["label_images"]:
        print(f"images of labels: {m['label_images']['from']}", m["label_images"].get("images", ""))
    if chance := m.get("chance"):
        for scorer, count in chance["no label beats chance"].items():
            print(f"null test of {scorer}: {NO_LABEL} on {count} neurons (false-discovery rate {chance['fdr']:g})")
    verdicts = result.verdicts.to_pylist()
    if stability := m.get("stability"):
        for scorer in dict.fromkeys(v["scorer"] for v in verdicts):
            told = [v for v in verdicts if v["scorer"] == scorer and v["agreement"] is not None]
            alone = sum(len(v["label_set"]) == 1 for v in told)
            mean = sum(v["agreement"] for v in told) / max(1, len(told))
            print(
                f"{scorer}: {mean:.0%} of {stability['samples']} bootstrap samples agree on a label; one label holds "
                f"{stability['coverage']:.0%} of them on {alone} of {len(told)} neurons"
            )
    if moves := (m.get("granularity") or {}).get("moves"):
        for scorer, counts in moves.items():
            words = ", ".join(f"{counts[way]} {way}" for way in MOVES if way in counts)
            print(f"labels of {scorer} against {m['granularity']['moved from']}: {words}")
    if gamma := m.get("gamma"):
        print(f"gamma per {gamma['per']}: {gamma.get('gamma', gamma.get('neurons at each gamma'))} ({gamma['scorer']})")
    if meanings := m.get("meanings"):
        counts = ", ".join(f"{n} with {k}" for k, n in (meanings.get("counts") or {}).items() if k != "1")
        print(
            f"polysemantic: {meanings['split']} of {meanings['neurons']} neurons" + (f" ({counts})" if counts else "")
        )
    for note in m["notes"]:
        print(f"note: {note}")
    if result.path is not None:
        print(f"evaluation: {result.path}")


def _sane(row: dict[str, Any], tests: dict[str, Any]) -> str:
    """Whether the row's metric passes the sanity tests, or which it misses."""
    if row["sane"] is not False:
        return "yes" if row["sane"] else "-"
    misses = tests[row["metric"]]["misses"]
    return "no: " + ", ".join(misses).replace("missing, extra", "both")
