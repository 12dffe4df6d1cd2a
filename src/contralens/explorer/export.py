"""The explorer's pages as files: a static site that any web host serves, and that opens from file:// as well.

Data are scripts, each handing one JSON text to the page, since a page opened from a file may not fetch. Nothing in the
site asks anything of another host, and absolute paths of the machine it was made on lose their folders.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

from contralens import __version__
from contralens.data.folder_kinds import EXPORT
from contralens.data.notes import Notebook
from contralens.data.replace_folder import reserved
from contralens.data.seals import seal
from contralens.errors import InputError
from contralens.explorer import audit_pages, cards, layers_page, overview, pages, shapes
from contralens.explorer.partners import Matcher, Partners, turned
from contralens.explorer.runs import OpenRun, keys
from contralens.explorer.values import dumps
from contralens.sharing.local_paths import anonymous
from contralens.types import Progress, silent

NEURONS_PER_FILE = 16
"""Neurons in one data file."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "base-uri 'none'; form-action 'none'"
)
WHY = "this is an export; search by words or pictures needs `contralens explore`"


def export(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    with_notes: bool = False,
    url: str | None = None,
    matcher: Matcher | None = None,
    progress: Progress = silent,
) -> Path:
    """Write runs as a static site into `out`, atomically; an older export there is replaced.

    Args:
        runs: run folders; with two or more, the site can compare them.
        out: folder of the site; new, empty or an older export.
        with_notes: publish the notes, tags and corrected labels too.
        url: where the site will be on the web; each neuron then gets a page links/RUN/NEURON.html that previews with
            its picture where it is pasted, and leads on to the neuron.
        matcher: what pairs the neurons of runs of different layers or networks; by default nothing does.

    Raises:
        InputError: `out` holds something else, or `url` is no address of a web site.
        RunError: a run cannot be read.
    """
    if url is not None and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", url):
        raise InputError(f"`url` must be the address of the site, such as https://me.github.io/site; got {url!r}")
    out = Path(out)
    paths = [Path(p) for p in runs]
    with reserved(out, EXPORT, inputs=paths) as place, place.filled() as folder:
        corrected = {key: Notebook(p, writable=False).corrections() for key, p in keys(paths).items() if with_notes}
        opened = [OpenRun(key, path, corrections=corrected.get(key, {})) for key, path in keys(paths).items()]
        _static(folder)
        infos: list[shapes.RunInfo] = []
        _matches(folder, opened, Partners(matcher), progress)
        for run in opened:
            infos.append(_run(folder, run, with_notes, url, progress))
            run.close()
        if len(opened) > 1:
            _data(folder, "layers", anonymous(layers_page.page(keys(paths), corrections=with_notes)))
        infos = anonymous(infos)
        listed: shapes.RunList = {"version": __version__, "runs": infos, "writable": False, "encoder": WHY}
        _data(folder, "runs", listed)
        seal(folder, EXPORT.manifest, {"contralens": __version__, "runs": [r["key"] for r in infos]})
    return out


def _static(folder: Path) -> None:
    for file in files("contralens.explorer").joinpath("static").iterdir():
        data = file.read_bytes()
        if file.name == "index.html":
            page = data.decode()
            policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}" />'
            page = page.replace('<html lang="en">', '<html lang="en" data-export="1">')
            data = page.replace('<meta charset="utf-8" />', f'<meta charset="utf-8" />\n    {policy}').encode()
        (folder / file.name).write_bytes(data)


def _matches(folder: Path, runs: Sequence[OpenRun], partners: Partners, progress: Progress) -> None:
    """Which neuron is which, for each two of the runs."""
    pairs = list(combinations(runs, 2))
    for done, (a, b) in enumerate(pairs):
        progress("matching neurons", done, len(pairs))
        found = partners.of(a, b)
        found = {**found, "problem": anonymous(found["problem"]), "notes": anonymous(found["notes"])}
        _data(folder, f"{a.key}/match-{b.key}", found)
        _data(folder, f"{b.key}/match-{a.key}", turned(found))
    if pairs:
        progress("matching neurons", len(pairs), len(pairs))


def _run(folder: Path, run: OpenRun, with_notes: bool, url: str | None, progress: Progress) -> shapes.RunInfo:
    _data(folder, f"{run.key}/index", overview.index(run))
    if run.vectors is not None or "layout" in run.tables:
        for method in pages.plane(run)["methods"]:
            _data(folder, f"{run.key}/map-{method}", pages.plane(run, method))
        _data(folder, f"{run.key}/map", pages.plane(run))
    if run.audit is not None:
        _data(folder, f"{run.key}/audit", anonymous(audit_pages.page(run)))
    notes: shapes.Notes = {"file": f"{run.key}.notes.jsonl", "writable": False, "notes": [], "problems": []}
    if with_notes:
        notes = {**Notebook(run.path, writable=False).read(), "writable": False}
    _data(folder, f"{run.key}/notes", notes)
    parts: dict[int, list[int]] = {}
    for neuron in run.neurons:
        parts.setdefault(neuron // NEURONS_PER_FILE, []).append(neuron)
    done = 0
    for part, neurons in parts.items():
        details = [pages.detail(run, n) for n in neurons]
        for detail in details if url is not None else ():
            cards.write_link(folder, run, detail, str(url))
        _data(folder, f"{run.key}/neurons-{part}", [_public(d) for d in details])
        done += len(neurons)
        progress(f"writing neurons of {run.key}", done, len(run.neurons))
    for image in run.pictures:
        blob = run.pictures.get(image)
        if blob is not None:
            file = folder / "images" / run.key / str(image // 1000) / f"{image}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(blob)
    return pages.info(run, len(notes["notes"]))


def _public(detail: shapes.Detail) -> shapes.Detail:
    """A neuron without folders where files are named: what is missing, where concepts and candidates are from."""
    for row in detail["labels"]:
        row["concepts"] = [{**c, "source": anonymous(c["source"])} for c in row["concepts"]]
    if detail["gamma"] is not None:
        detail["gamma"]["sources"] = anonymous(detail["gamma"]["sources"])
    for candidate in detail["candidates"] or []:
        candidate["model"] = anonymous(candidate.get("model"))
    detail["missing"] = anonymous(detail["missing"])
    return detail


def _data(folder: Path, name: str, value: Any) -> None:
    """A script that hands the page a JSON text: the text is a string, so nothing in it can be read as code."""
    text = json.dumps(dumps(value).decode(), ensure_ascii=True)
    file = folder / "data" / f"{name}.js"
    os.makedirs(file.parent, exist_ok=True)
    file.write_text(f"contralensData({json.dumps(name)}, {text});\n", encoding="utf-8")
