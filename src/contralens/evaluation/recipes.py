"""Recipes: published experiments as YAML files; what they need is checked, and their numbers are next to the paper's.

A recipe holds

- title, about: what it reproduces;
- needs: packages (to import), environment (variable: what it must hold; a path must exist), images (the variable of an
  image folder: the least number of images);
- runs: name: {label: arguments of `contralens.label`, candidates: arguments of `contralens.propose` (the
  vocabulary is then joined with what it proposes), evaluate: arguments of `contralens.evaluate`, audit: arguments of
  `contralens.audit`};
- published: run, scorer, metric, value and source of each number to compare with.

$NAME in any text is taken from the environment.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contralens.checks import nearest, real, whole
from contralens.config import check_code, known_keys, read_yaml
from contralens.data.evaluations import Evaluation
from contralens.data.folder_kinds import RUN
from contralens.data.images import images as image_set
from contralens.data.replace_folder import reserved
from contralens.data.wordnet import find_wordnet
from contralens.errors import InputError, MissingPackage
from contralens.evaluation.measuring import wanted_metrics
from contralens.settings.finished_run import Audit, Evaluate
from contralens.settings.label import Label
from contralens.settings.propose import Propose
from contralens.settings.record import keys, read
from contralens.types import Progress, silent

KEYS = ("title", "about", "needs", "runs", "published")
STEPS: dict[str, Any] = {"label": Label, "candidates": Propose, "evaluate": Evaluate, "audit": Audit}
"""The steps of a run, and the records of their settings."""
OURS = ("run", "out", "device", "cache")
"""Settings that `follow` gives."""
PUBLISHED = ("run", "scorer", "metric", "value", "source")
NEEDED = ("target", "images", "encoder", "vocabulary")
NEEDS = ("packages", "environment", "images")
_VARIABLE = re.compile(r"\$(\w+)")


def read_recipe(path: str | Path, *, trust_code: bool = False) -> dict[str, Any]:
    """A recipe from its file, with every key checked; variables are not yet filled in.

    Args:
        path: the file.
        trust_code: let it name code to import, such as "module:FILE.py:FUNCTION"; a variable may do so without.

    Raises:
        InputError: no such file, no YAML, an unknown key, code that it may not name.
    """
    path = Path(path)
    recipe = read_yaml(path, "recipe")
    known_keys(recipe, KEYS, path)
    known_keys(recipe.get("needs") or {}, NEEDS, f"{path}: needs")
    _check_needs(recipe.get("needs") or {}, path)
    if not recipe.get("runs") or not isinstance(recipe["runs"], Mapping):
        raise InputError(f"{path} has no runs by name")
    for name, steps in recipe["runs"].items():
        known_keys(steps, tuple(STEPS), f"{path}: {name}")
        if "label" not in steps:
            raise InputError(f"{path}: {name} has no label step")
        for step, given in steps.items():
            known = {key: v for key, v in (given or {}).items() if not any(map(_VARIABLE.search, _texts(v)))}
            _settings(step, known, f"{path}: {name}: {step}")
    check_code(recipe["runs"], path, trust_code)
    if not isinstance(recipe.get("published") or [], list):
        raise InputError(f"{path}: published must be a list of rows")
    for row in recipe.get("published") or []:
        known_keys(row, PUBLISHED, f"{path}: published")
        if (run := row.get("run")) not in recipe["runs"]:
            raise InputError(f"{path}: published names the run {run!r}{nearest(run, recipe['runs'])}")
    for name, steps in recipe["runs"].items():
        if lacks := [key for key in NEEDED if key not in (steps["label"] or {})]:
            raise InputError(f"{path}: {name}: label is missing {', '.join(lacks)}")
    for row in recipe.get("published") or []:
        if lacks := [key for key in PUBLISHED if key not in row]:
            raise InputError(f"{path}: a row of published is missing {', '.join(lacks)}")
        real(f"value of {row['metric']}", row["value"])
    return dict(recipe)


def _settings(step: str, given: Any, where: str) -> dict[str, Any]:
    """What a step says as keyword arguments of its function, checked."""
    known_keys(given or {}, tuple(name for name in keys(STEPS[step]) if name not in OURS), where)
    return read(STEPS[step], given or {}, f"{where}: ")


def _check_needs(needs: Mapping[str, Any], path: Path) -> None:
    packages, told, images = (needs.get(name) or {} for name in NEEDS)
    if not all(isinstance(package, str) for package in packages) or isinstance(packages, str):
        raise InputError(f"{path}: needs: packages must be a list of names")
    if not isinstance(told, Mapping) or not isinstance(images, Mapping):
        raise InputError(f"{path}: needs: environment and images must hold `name: value` lines")
    for name, least in images.items():
        whole(f"needs: images: {name}", least)


def lacking(recipe: Mapping[str, Any]) -> list[str]:
    """What a recipe needs and this machine does not have, one line each."""
    needs = recipe.get("needs") or {}
    out = [
        f"the package {package} is not installed"
        for package in needs.get("packages") or []
        if importlib.util.find_spec(package) is None
    ]
    told = needs.get("environment") or {}
    for name, what in told.items():
        value = os.environ.get(name)
        if not value:
            out.append(f"{name} is not set: {what}")
        elif ("/" in value or os.sep in value) and ":" not in value and not Path(value).exists():
            out.append(f"{name}={value} does not exist: {what}")
    for name, least in (needs.get("images") or {}).items():
        if os.environ.get(name) and Path(os.environ[name]).exists():
            count = len(image_set(os.environ[name]))
            if count < least:
                out.append(f"{name} holds {count} images, {least} are needed: {told.get(name, 'images')}")
    metrics = [(steps.get("evaluate") or {}).get("metrics", ()) for steps in recipe["runs"].values()]
    if any("depth" in wanted_metrics(some) for some in metrics if some):
        try:
            find_wordnet()
        except MissingPackage as e:
            out.append(f"for granularity: {e}")
    used = {v for text in _texts(recipe["runs"]) for v in _VARIABLE.findall(text)}
    out += [f"{name} is not set" for name in sorted(used - set(told)) if name not in os.environ]
    return out


def follow(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path,
    *,
    replace: bool = False,
    device: str = "cpu",
    cache: str | Path | None = None,
    progress: Progress = silent,
    trust_code: bool = False,
) -> list[dict[str, Any]]:
    """Do what a recipe says; run folders are written into `out`, one per run. `replace` is that of `contralens.label`.

    Returns:
        A row per published number: run, scorer, metric, published, source, mean, low, high, neurons, inside (whether
        the published number is within the interval).

    Raises:
        InputError: something is missing; all of it is listed.
    """
    from contralens.labeling.reserving import inputs_of

    made = dict(recipe) if isinstance(recipe, Mapping) else read_recipe(recipe, trust_code=trust_code)
    if missing := lacking(made):
        raise InputError("this recipe cannot be followed here: " + "; ".join(missing))
    common: dict[str, Any] = {"device": device, "cache": cache, "progress": progress}
    summaries: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for name, steps in made["runs"].items():
        folder = Path(out) / name
        remade = {"audit"} & steps.keys() | ({"evaluation"} if "evaluate" in steps or "audit" not in steps else set())
        filled = {step: _settings(step, _filled(given), f"{name}: {step}") for step, given in steps.items()}
        with reserved(folder, RUN, inputs=inputs_of(filled["label"]), replace=replace, remade=remade):
            result = _followed(filled, folder, common)
        rows_of = [] if result is None else result.summary.to_pylist()
        summaries[name] = {(row["scorer"], row["metric"]): row for row in rows_of}
    rows = []
    for row in made.get("published") or []:
        got = summaries[row["run"]].get((row["scorer"], row["metric"]), {})
        found = {key: got.get(key) for key in ("mean", "low", "high", "neurons")}
        told = found["low"] is not None and found["high"] is not None
        inside = bool(found["low"] <= row["value"] <= found["high"]) if told else None
        names = {key: row[key] for key in ("run", "scorer", "metric", "source")}
        rows.append({**names, "published": row["value"], **found, "inside": inside})
    return rows


def _followed(steps: Mapping[str, dict[str, Any]], folder: Path, common: dict[str, Any]) -> Evaluation | None:
    """The steps of one run, the last of which is its evaluation, if it has one."""
    from contralens.data.runs import load
    from contralens.evaluation.evaluate import evaluate
    from contralens.labeling.label import label

    settings = steps["label"]
    run = label(**settings, **common, out=folder)
    if steps.get("candidates"):
        from contralens.proposing.propose import propose

        candidates = propose(run, **steps["candidates"], **common)
        label(**{**settings, "candidates": candidates}, **common, out=folder)
    if steps.get("audit"):
        from contralens.auditing.audit import audit

        audit(load(folder), **steps["audit"], **common)
    if "evaluate" not in steps and "audit" in steps:
        return None
    return evaluate(load(folder), **steps.get("evaluate", {}), **common)


def _filled(value: Any) -> Any:
    """A step with its variables filled in."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: os.environ[match.group(1)], value)
    if isinstance(value, Mapping):
        return {key: _filled(v) for key, v in value.items()}
    return [_filled(v) for v in value] if isinstance(value, list) else value


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [text for one in inner for text in _texts(one)]
