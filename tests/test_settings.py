"""One record of settings a job: flags, keys of files, keywords, checks and help come from it."""

import inspect
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import typer.testing
import yaml

import contralens
from contralens.bench.export import export_benchmark
from contralens.bench.leaderboard import leaderboard
from contralens.bench.meanings_bench import meanings_bench
from contralens.bench.world_bench import world_bench
from contralens.cli import COMMANDS, app
from contralens.commands.flags import Given, settings_from, with_flags
from contralens.config import read_config
from contralens.errors import InputError
from contralens.evaluation.recipes import read_recipe
from contralens.settings.bench import ExportedBenchmark, Leaderboard, MeaningsBenchmark, Rendered, WorldBenchmark
from contralens.settings.finished_run import Audit, Compare, ContrastClasses, Evaluate, Granularity, Match, Verify
from contralens.settings.kinds import PYTHON, between
from contralens.settings.label import Collect, Judge, Label, LabelCommand, LabelLayers, Mine, Score
from contralens.settings.propose import Propose, ProposeCommand
from contralens.settings.record import Work, documented, job, keys, read, setting, settings_of

RECORDS = (
    Work,
    Collect,
    Mine,
    Score,
    Judge,
    Label,
    LabelLayers,
    LabelCommand,
    Evaluate,
    Audit,
    Propose,
    ProposeCommand,
    Compare,
    Granularity,
    Rendered,
    WorldBenchmark,
    MeaningsBenchmark,
    Leaderboard,
    ExportedBenchmark,
)
AT_FIRST = {
    Label: ("target", "images", "encoder", "vocabulary"),
    LabelLayers: ("target", "images", "encoder", "vocabulary"),
    Evaluate: ("run",),
    Audit: ("run", "concepts"),
    Propose: ("run", "proposer"),
    Verify: ("run",),
    ContrastClasses: ("run", "a", "b"),
    Match: ("one", "other"),
    Compare: ("runs", "scorers", "metrics"),
    Granularity: ("run", "neurons"),
    WorldBenchmark: ("scorers", "methods"),
    MeaningsBenchmark: ("scorers",),
    Leaderboard: ("scorers",),
    ExportedBenchmark: ("out",),
}
JOBS: tuple[Any, ...] = (
    (contralens.label, Label),
    (contralens.label_layers, LabelLayers),
    (contralens.evaluate, Evaluate),
    (contralens.audit, Audit),
    (contralens.propose, Propose),
    (contralens.verify, Verify),
    (contralens.contrast_classes, ContrastClasses),
    (contralens.match, Match),
    (contralens.compare, Compare),
    (contralens.granularity, Granularity),
    (world_bench, WorldBenchmark),
    (meanings_bench, MeaningsBenchmark),
    (leaderboard, Leaderboard),
    (export_benchmark, ExportedBenchmark),
)
NEEDED = ("world:1", "images", "world", "world")
WRONG = {
    "k": "ten", "limit": "few", "exclude": "2", "fdr": "0", "decode": "quick", "neurons": "5-1", "per_group": "0",
    "precision": "bf8", "seed": "0.5", "batch_size": "-1",
}  # fmt: skip


@pytest.mark.parametrize("record", RECORDS)
def test_every_setting_says_what_it_does(record: Any) -> None:
    assert {f.name for f in fields(record)} == set(settings_of(record)), "each field has one Setting"
    for name, one in settings_of(record).items():
        assert one.help.endswith("."), f"{record.__name__}.{name}"


def test_functions_take_what_their_records_hold() -> None:
    for function, record in JOBS:
        shape = inspect.signature(function)
        assert shape.parameters == inspect.signature(record).parameters
        for name in settings_of(record):
            assert re.search(rf"^ {{8}}{name}: \S", function.__doc__ or "", re.M)
        positional = [p.name for p in shape.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert positional == list(AT_FIRST[record])


@pytest.mark.parametrize(("name", "text"), WRONG.items())
def test_one_message_whoever_is_wrong(name: str, text: str, tmp_path: Path) -> None:
    """A flag, a YAML file, a recipe and Python answer alike."""
    said = []
    flag = f"--{name.replace('_', '-')}"
    done = typer.testing.CliRunner().invoke(app, ["label", flag, text])
    said.append(str(done.exception))
    (tmp_path / "c.yaml").write_text(f"{name}: {text!r}")
    with pytest.raises(InputError) as e:
        read_config(tmp_path / "c.yaml")
    said.append(str(e.value).removeprefix(f"{tmp_path / 'c.yaml'}: "))
    given = dict(zip(("target", "images", "encoder", "vocabulary"), NEEDED, strict=True)) | {name: text}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"runs": {"a": {"label": given}}}))
    with pytest.raises(InputError) as e:
        read_recipe(tmp_path / "r.yaml")
    said.append(str(e.value).removeprefix(f"{tmp_path / 'r.yaml'}: a: label: "))
    with pytest.raises(InputError) as e:
        contralens.label(*NEEDED, **{name: yaml.safe_load(text)})
    said.append(str(e.value))
    assert len(set(said)) == 1, said
    assert said[0].startswith(f"`{name}`")


def test_files_may_call_settings_like_flags() -> None:
    names = keys(LabelCommand)
    assert names["scorer"] == names["scorers"] == "scorers"
    assert names["propose"] == "proposing"
    assert read(Label, {"own-only": True, "template": "photo"}) == {"own_only": True, "templates": "photo"}


def test_a_stage_has_the_settings_of_those_before() -> None:
    mine = Mine(*NEEDED[:3], layer="block3", k=5)
    score = mine.to(Score, vocabulary="world", top=3)
    assert (score.k, score.layer, score.top) == (5, "block3", 3)
    label = Label(*NEEDED, k=7, out="run")
    assert isinstance(label.to(Score, top=2), Label), "nothing is lost on the way"
    assert label.to(Mine, k=3).out == "run"
    with pytest.raises(InputError, match="did you mean top"):
        mine.to(Score, vocabulary="world", tpo=3)


# What CONTRIBUTING.md says of a new option: one field, and it is everywhere.


@dataclass(frozen=True, kw_only=True)
class Sharper(Label):
    sharpness: float = setting(0.5, between(one=True), "How sharp.")


@job(Sharper)
def sharper(settings: Sharper) -> float:
    """How sharp it is.

    Returns:
        What was asked for.
    """
    return settings.sharpness


def test_a_new_option_is_one_field(tmp_path: Path) -> None:
    heard: list[Any] = []

    @with_flags(Sharper)
    def command(given: Given, trust_code: bool = False) -> None:
        """Sharpen."""
        heard.append(settings_from(Sharper, given, trust_code=trust_code))

    small = typer.Typer(rich_markup_mode=None)
    small.command()(command)
    cli = typer.testing.CliRunner()
    assert re.search(r"--sharpness <float> +How sharp \(default 0.5\)", cli.invoke(small, ["--help"]).output)
    cli.invoke(small, ["--sharpness", ".25"], catch_exceptions=False)
    assert heard == [{"sharpness": 0.25}]
    assert "sharpness must" in str(cli.invoke(small, ["--sharpness", "much"]).exception).replace("`", "")
    assert read(Sharper, {"sharpness": "1e-1"}) == {"sharpness": 0.1}
    assert sharper(*NEEDED, sharpness=0.75) == 0.75
    assert "sharpness: How sharp." in (sharper.__doc__ or "")
    assert inspect.signature(sharper).parameters["sharpness"].default == 0.5
    with pytest.raises(InputError, match="`sharpness` must be a number; got 'much'"):
        sharper(*NEEDED, sharpness="much")  # type: ignore[arg-type]
    assert "Returns:" in documented(sharper.__doc__ or "", Sharper)


def test_flags_of_one_setting_are_the_same_in_every_command() -> None:
    group: Any = typer.main.get_command(app)
    records = {
        "label": LabelCommand,
        "collect": Collect,
        "evaluate": Evaluate,
        "audit": Audit,
        "propose": ProposeCommand,
        "compare": Compare,
        "granularity": Granularity,
        "world": Rendered,
        "bench world": WorldBenchmark,
        "bench meanings": MeaningsBenchmark,
        "bench export": ExportedBenchmark,
    }
    for name, record in records.items():
        *above, last = name.split()
        of = group.commands[above[0]] if above else group
        own = {p.name: p.help for p in of.commands[last].params}
        for option, one in settings_of(record).items():
            if one.kind is not PYTHON and option not in ("save", "proposer_options", "caption_options"):
                assert own[option].startswith(one.help.removesuffix("."))
    assert set(COMMANDS) == set(group.commands) - {"bench"}


def test_the_reference_shows_the_settings_as_arguments() -> None:
    griffe = pytest.importorskip("griffe")
    import griffe_doctests

    extensions = griffe.load_extensions(griffe_doctests.Doctests)
    package = griffe.load("contralens", search_paths=[Path(contralens.__file__).parents[1]], extensions=extensions)
    for function, record in JOBS:
        page = package[f"{function.__module__}.{function.__name__}".removeprefix("contralens.")]
        assert [p.name for p in page.parameters] == list(inspect.signature(function).parameters)
        assert all(f"    {name}: " in page.docstring.value for name in settings_of(record))
