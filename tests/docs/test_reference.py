"""Nothing undocumented: every public name, parameter, option, plug and error stands in the reference."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main
from fenced import PAGES, ROOT, blocks
from plugged import registries

import contralens
from contralens.cli import app
from contralens.config import SETTINGS
from contralens.settings.record import help_of
from contralens.types import Brief

API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^::: (contralens\S*)(?:\n    options:\n      members: \[(.*)\])?", API, re.M)
"""What the reference shows, and of a module which members; all of them by default."""


def resolve(path: str) -> Any:
    """The object behind a dotted path."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"nothing is called {path}")


def shown() -> Iterator[tuple[str, Any]]:
    """Functions and classes of the reference, those of its modules included."""
    for path, members in SHOWN:
        found = resolve(path)
        if not inspect.ismodule(found):
            yield path, found
            continue
        own = [n for n, x in vars(found).items() if getattr(x, "__module__", "") == path and not n.startswith("_")]
        for name in members.split(", ") if members else own:
            if callable(getattr(found, name)):
                yield f"{path}.{name}", getattr(found, name)


def test_every_public_name_is_in_the_reference() -> None:
    paths = {path for path, _ in SHOWN}
    assert [name for name in contralens.__all__ if name != "__version__" and f"contralens.{name}" not in paths] == []


def test_whatever_public_functions_return_is_in_the_reference() -> None:
    known = {found for _, found in shown() if inspect.isclass(found)}
    for path, found in shown():
        if inspect.isfunction(found):
            words = re.findall(r"\w+", str(inspect.signature(found).return_annotation))
            made = [inspect.unwrap(found).__globals__.get(word) for word in words]
            own = {c for c in made if inspect.isclass(c) and c.__module__.startswith("contralens.")}
            assert own <= known, f"{path} returns {own - known}"


@pytest.mark.parametrize(("path", "found"), list(shown()), ids=lambda x: x if isinstance(x, str) else "")
def test_what_the_reference_shows_says_what_it_is(path: str, found: Any) -> None:
    text = inspect.getdoc(found) or ""
    if not callable(found):
        return
    assert len(text.split()) >= 3, f"{path} has no docstring"
    if inspect.isclass(found):
        for name, member in vars(found).items():
            if not name.startswith("_") and inspect.isfunction(member):
                assert member.__doc__ or name in ("rows", "scorers"), f"{path}.{name} has no docstring"
        return
    if "Args:" in text:  # who begins a list of arguments finishes it
        args = re.search(r"Args:\n(.*?)(?:\n\n|\Z)", text, re.S)
        assert args is not None
        listed = set(re.findall(r"^    (\w+):", args[1], re.M))
        asked = {name for name, p in inspect.signature(found).parameters.items() if name != "self"}
        if other := re.search(r"are as\s+in `(contralens\.\w+)`", text):
            listed |= asked & set(inspect.signature(resolve(other[1])).parameters)
        assert asked == listed, f"{path}: not documented: {asked - listed}; not there: {listed - asked}"
    else:
        missing = [n for n in inspect.signature(found).parameters if not re.search(rf"\b{n}\b", text)]
        assert len(missing) <= 3, f"{path} says nothing of {missing}"


@pytest.mark.parametrize(("path", "found"), list(shown()), ids=lambda x: x if isinstance(x, str) else "")
def test_what_the_reference_shows_has_an_example_that_runs(path: str, found: Any) -> None:
    """Functions and classes in their docstrings; methods there, in their class's, or on a page whose code runs."""
    if not callable(found):
        return
    own = re.findall(r"^ *(?:>>>|\.\.\.) (.*)$", found.__doc__ or "", re.M)
    assert own, f"{path} has no example"
    pages = [b.code for page in PAGES for b in blocks(page) if b.language == "python" and b.not_run is None]
    examples = "\n".join(own + pages)
    for name, member in vars(found).items() if inspect.isclass(found) else ():
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            doc = getattr(member, "fget", member).__doc__ or ""
            assert ">>> " in doc or re.search(rf"(?:\.|def ){name}\b", examples), f"{path}.{name} has no example"


@pytest.mark.parametrize(("path", "found"), list(shown()), ids=lambda x: x if isinstance(x, str) else "")
def test_records_of_arrays_and_tables_have_a_short_repr(path: str, found: Any) -> None:
    if is_dataclass(found) and any(re.search(r"\b(Tensor|NDArray|Table)\b", str(f.type)) for f in fields(found)):
        assert isinstance(found, type)
        assert issubclass(found, Brief) or ("__repr__" in vars(found) and not found.__dataclass_params__.repr), path


def test_every_error_is_in_the_reference() -> None:
    for path in sorted((ROOT / "src/contralens").rglob("*.py")):
        if path.parent.name == "explorer":
            continue  # answered as HTTP
        for name in re.findall(r"^class ([A-Z]\w*)\((?:\w*Error|Exception)\)", path.read_text(encoding="utf-8"), re.M):
            assert re.search(rf"^::: contralens\S*\.{name}$", API, re.M), f"{path}: {name} is not in docs/api.md"


def test_every_plug_is_in_the_docs() -> None:
    pages = {p: p.read_text(encoding="utf-8") for p in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]}
    for kind, plugs in registries().items():
        for name in plugs:
            assert any(re.search(rf"[`\s|(]{re.escape(name)}[`:,\s|)]", text) for text in pages.values()), (kind, name)
    table = (ROOT / "docs/methods/index.md").read_text(encoding="utf-8")
    for name, scorer in contralens.SCORERS.items():
        row = next((line for line in table.splitlines() if line.startswith(f"| `{name}` |")), "")
        assert row, f"docs/methods/index.md has no row for {name}"
        for option in [
            o for o in list(inspect.signature(scorer).parameters)[3:] if o not in ("activations", "decoder")
        ]:
            assert f"`{option}`" in row, f"docs/methods/index.md: option {option} of {name}"
    groups = (ROOT / "docs/howto/index.md").read_text(encoding="utf-8")
    assert all(f"`contralens.{kind.split()[0]}`" in groups for kind in registries())


def test_every_recipe_is_in_the_docs() -> None:
    text = (ROOT / "docs/howto/recipe.md").read_text(encoding="utf-8")
    assert [p.name for p in sorted((ROOT / "recipes").glob("*.yaml")) if f"`{p.name}`" not in text] == []


def test_every_metric_is_in_the_docs() -> None:
    from contralens.evaluation.measuring import METRICS
    from contralens.math.metric_registry import groups
    from contralens.settings.finished_run import DEFAULT_METRICS, Evaluate

    page = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    rows: dict[str, set[str]] = {}
    group = ""
    for line in page.split("## Metrics")[1].split("\n## ")[0].splitlines():
        if line.startswith("| ") and "---" not in line:
            first, names = line.split("|")[1:3]
            group = first.strip() or group
            rows.setdefault(group, set()).update(re.findall(r"`(\w+)`", names))
    rows.pop("group")
    built_in = {group: set(names) & METRICS.built_in for group, names in groups().items()}
    built_in = {group: names for group, names in built_in.items() if names}
    assert rows == built_in, "the table of docs/evaluation.md and the metrics' own groups"
    text = help_of(Evaluate, "metrics")
    assert all(group in text for group in rows)
    assert set(DEFAULT_METRICS) <= set(rows)


def test_every_option_says_what_it_does() -> None:
    group: Any = typer.main.get_command(app)
    inner = [c for command in group.commands.values() for c in getattr(command, "commands", {}).items()]
    for name, command in [*group.commands.items(), *inner]:
        assert command.help, name
        assert not command.get_short_help_str(61).endswith("..."), f"contralens {name}: its first sentence is cut short"
        for parameter in command.params:
            assert parameter.help, f"contralens {name}: {parameter.name} has no help"
    assert set(SETTINGS) - {p.name for p in group.commands["label"].params} == set()


def test_the_page_of_the_command_line_is_fresh() -> None:
    script = ROOT / "scripts" / "make_cli_docs.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_page_is_reached() -> None:
    """Each page stands in the navigation, and the navigation names no page that is not there."""
    import yaml

    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    found = set(re.findall(r"[\w/-]+\.md", str(yaml.safe_load(text)["nav"])))
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert found == there, f"not in nav: {there - found}; not there: {found - there}"


def test_links_of_pages_outside_the_site() -> None:
    """README, CONTRIBUTING and CHANGELOG: what they link to exists. (Links within the site: `make docs`.)"""
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "src/contralens/world/README.md"):
        page = ROOT / name
        for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{name}: {link}"


def test_figures_that_pages_quote_are_those_of_the_benchmarks() -> None:
    results = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")

    def figure(row: str, column: int) -> float:
        line = next(line for line in results.splitlines() if line.startswith(row))
        return round(float(line.split("|")[column].strip(" x").replace(",", "")), 1)

    def quoted(page: str, words: str) -> list[float]:
        text = " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())
        found = re.search(words.replace("#", r"([\d.]+)"), text)
        assert found, f"docs/{page} no longer says: {words}"
        return [float(x) for x in found.groups()]

    faster = quoted(
        "comparison.md", "# times faster for 5,000 images and 200 neurons, # times for 50,000 images and 2,048"
    )
    assert faster == [figure("| 5,000 | 200 |", 7), figure("| 50,000 | 2,048 |", 7)]
    seconds = quoted("methods/lookalike.md", "took # s on two cores .* CLIP-Dissect took # s and .* CSP # s")
    rows = [figure(f"| {name} | 50,000 | 2,048 |", 5) for name in ("lookalike", "clip_dissect", "csp")]
    assert seconds == [round(rows[0]), round(rows[1]), rows[2]]


def test_addresses_are_https() -> None:
    for path in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]:
        plain = re.findall(r"\]\((http://[^)]*)\)", path.read_text(encoding="utf-8"))
        assert plain == [], f"{Path(path).name}: {plain}"
