"""Runs for others: pushed to a plain folder or a Hugging Face Hub repository, and pulled back as the same run.

What is pushed: labels.json (the label file), run/ (the run's tables; its evaluation, its verification, and an atlas's
links and edges, if there are), README.md, and share.json with the SHA-256 of each file. Not pushed: images, their
thumbnails and the edited pictures of a verification unless asked for, absolute paths, replies of vision-language
models, the report. Needs no torch.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from contralens.checks import counted, first_line
from contralens.data.checked_reading import check_schema, check_seal, inside
from contralens.data.final_labels import final
from contralens.data.folder_kinds import ATLAS_PART, EVALUATION, RUN, SHARE, VERIFICATION, look
from contralens.data.layer_relations import copied, send
from contralens.data.replace_folder import reserved
from contralens.data.runs import LABELS, Run, load
from contralens.data.seals import file_digest, read_object, seal
from contralens.data.trust import SIGNATURE
from contralens.data.verifications import verification_of
from contralens.errors import InputError, RunError
from contralens.pages import markdown_cell
from contralens.sharing.hub import HUB, fetched, repo_of, upload
from contralens.sharing.label_files import LabelFile, label_file, read_labels
from contralens.sharing.local_paths import anonymous, relative

NAME, VERSION = "contralens-share", 2
READABLE = (1, VERSION)
"""Versions that can be pulled; version 1 did not list README.md."""
PARTS = {"evaluation": EVALUATION.manifest, "verification": VERIFICATION.manifest}
"""What comes along in a run, and the file that describes it."""
_KINDS = {".json", ".parquet", ".safetensors"}


def push(
    run: Run | str | Path, dest: str | Path, *, thumbnails: bool = False, names: bool = True, public: bool = False
) -> str:
    """Copy a run to a folder or a Hub repository, for others to pull.

    Args:
        run: a finished run, or its folder.
        dest: a folder, or "hf:OWNER/NAME" for a dataset repository on the Hugging Face Hub.
        thumbnails: also the small pictures (128 px) of the evidence, and those of edits. Images are never pushed.
        names: False replaces image names by content hashes and omits their classes.
        public: make a new Hub repository public; an existing one is not changed.

    Returns:
        The folder, or the address of the commit.

    Raises:
        InputError: a folder with other files in it.
        StoreError: no access to the Hub.

    >>> push("run", "shared-run")
    'shared-run'
    """
    run = run if isinstance(run, Run) else load(run)
    if isinstance(dest, str) and dest.startswith(HUB):
        repo, revision = repo_of(dest)
        if revision is not None:
            raise InputError(f"push goes to the main branch of a repository; omit @{revision}")
        with tempfile.TemporaryDirectory(prefix="contralens-push-") as folder:
            _write(run, Path(folder) / "share", thumbnails, names, dest)
            return upload(repo, Path(folder) / "share", public)
    inputs = [] if run.path is None else [run.path]
    with reserved(dest, SHARE, inputs=inputs, remade=tuple(PARTS)) as place, place.filled() as folder:
        _write(run, folder, thumbnails, names, str(dest))
    return str(Path(dest))


def pull(source: str | Path, out: str | Path | None = None, *, replace: bool = False) -> Run:
    """Download a pushed run: every file is checked, and the run is written atomically.

    Args:
        source: a folder that `push` wrote, or "hf:OWNER/NAME", with "@REVISION" for an older revision.
        out: run folder to write; by default named like the source.
        replace: also replace an older run that was edited or contains an evaluation, an audit or maps.

    Raises:
        InputError: no pushed run there, or `out` contains other files.
        RunError: a file is missing or was changed.
        StoreError: no access to the Hub.

    >>> where = push("run", "shared-run")
    >>> pull(where, "pulled").labels.equals(load("run").labels)
    True
    """
    hub = isinstance(source, str) and source.startswith(HUB)
    name = repo_of(str(source))[0].rpartition("/")[2] if hub else Path(source).resolve().name
    out = Path(out) if out is not None else Path(name)
    if not hub and not Path(source).is_dir():
        raise InputError(f"there is no folder {source}; for the Hugging Face Hub write hf:OWNER/NAME")
    if not hub and out.resolve() == Path(source).resolve():
        raise InputError(f"{out} is the source to pull from; choose another folder with --out")
    with ExitStack() as held:
        read, remade = () if hub else [Path(source)], [part for part in PARTS if _came_along(out / part / PARTS[part])]
        remade += [ATLAS_PART] if copied(out) else []
        place = held.enter_context(reserved(out, RUN, inputs=read, replace=replace, remade=remade))
        folder = held.enter_context(fetched(str(source)) if hub else nullcontext(Path(source)))
        listed = _checked(folder, str(source))
        with place.filled() as made:
            for file in listed:
                if file.parts[0] == "run":
                    copy = made.joinpath(*file.parts[1:])
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(folder / file, copy)
            with _called(made, f"{source}/run"):
                same = _same_labels(load(made), read_labels(folder / "labels.json"))
            if not same:
                raise RunError(f"{source}: the label file and the run do not hold the same labels")
    return load(out)


def _came_along(manifest: Path) -> bool:
    """Whether the evaluation or verification in a run came with it when it was pulled."""
    return (read_object(manifest) or {}).get("shared") is True


# --- what is sent ---


def _write(run: Run, folder: Path, thumbnails: bool, names: bool, dest: str) -> None:
    folder.mkdir(exist_ok=True)
    told = label_file(run, names=names, corrections=False)
    told.save(folder / "labels.json")
    sent = _public(run, thumbnails, names).save(folder / "run")
    if told.content["evaluation"] is not None and run.path is not None:
        (folder / "run" / "evaluation").mkdir()
        for name in look(run.path / "evaluation", EVALUATION).own:
            shutil.copyfile(run.path / "evaluation" / name, folder / "run" / "evaluation" / name)
        about = json.loads((folder / "run" / "evaluation" / "manifest.json").read_text(encoding="utf-8"))
        seal(folder / "run" / "evaluation", "manifest.json", {**anonymous(about), "shared": True})
    tested = verification_of(run.path, str(run.manifest["target"]["fingerprint"]))
    if tested is not None:
        pictures = tested.pictures if thumbnails else tested.pictures.slice(0, 0)
        about = {**anonymous(tested.manifest), "shared": True}
        dataclasses.replace(tested, manifest=about, pictures=pictures).save(folder / "run")
    if run.path is not None:
        send(run.path, folder / "run")
    (folder / "README.md").write_text(_card(final(run, corrections=False), sent, thumbnails, dest), encoding="utf-8")
    content = {"format": NAME, "version": VERSION, "thumbnails": thumbnails, "names": names}
    seal(folder, "share.json", content)


def _public(run: Run, thumbnails: bool, names: bool) -> Run:
    """The run without what is not to be sent."""
    keys = {key: run.manifest[key] for key in ("scorers", "primary")}  # as the rows name them
    manifest = {key: value for key, value in {**anonymous(run.manifest), **keys}.items() if key != SIGNATURE}
    ids, labels = relative(run.images["id"].to_pylist()), run.images["label"].to_pylist()
    if not names:
        ids = [f"{fingerprint}-{i}" for i, fingerprint in enumerate(run.images["fingerprint"].to_pylist())]
        labels = [None] * len(ids)
        unnamed = [
            {**skipped, "id": "unnamed", "reason": "unnamed"} for skipped in manifest["images"].get("skipped", [])
        ]
        manifest = {**manifest, "images": {**manifest["images"], "skipped": unnamed}}
    images = _with(_with(run.images, "id", ids), "label", labels)
    if run.manifest.get("groups"):
        manifest, images = _numbered_groups(manifest, images)
    candidates = run.candidates
    if candidates is not None:
        candidates = _with(candidates, "model", anonymous(candidates["model"].to_pylist()))
    return dataclasses.replace(
        run,
        manifest=manifest,
        images=images,
        candidates=candidates,
        thumbnails=run.thumbnails if thumbnails else run.thumbnails.slice(0, 0),
    )


def _numbered_groups(manifest: dict[str, Any], images: pa.Table) -> tuple[dict[str, Any], pa.Table]:
    """The same with numbers for the names of groups, which may be those of patients."""
    number: dict[str, str] = {}

    def told(names: Sequence[str | None]) -> list[str | None]:
        return [None if name is None else number.setdefault(name, f"group {len(number)}") for name in names]

    images = _with(images, "group", told(images["group"].to_pylist()))
    held = manifest["images"].get("holdout")
    if held and "groups" in held:
        held = {**held, "groups": told(held["groups"])}
    return {**manifest, "images": {**manifest["images"], "holdout": held}}, images


def _with(table: pa.Table, column: str, values: Sequence[str | None]) -> pa.Table:
    return table.set_column(table.schema.get_field_index(column), column, pa.array(values, pa.string()))


def _card(judged: Run, run: Run, thumbnails: bool, dest: str) -> str:
    """README.md, which the Hub shows as the page of the repository."""
    m = run.manifest
    rows = [row for row in judged.rows() if row["label"] is not None]
    lines = [
        f"| {markdown_cell(row['name'])} | {markdown_cell(row['label'])} | {row['score']:.3f} |" for row in rows[:20]
    ]
    more = [f"\n... and {len(rows) - 20:,} more, in `labels.json`."] if len(rows) > 20 else []
    where = dest if dest.startswith(HUB) else "FOLDER"
    pictures = "Thumbnails of the evidence are included." if thumbnails else "No picture is included."
    return "\n".join(
        [
            "---",
            "pretty_name: " + json.dumps(f"Neuron labels of {m['target']['name']} {m['target']['layer']}"),
            "tags: [contralens, interpretability, neuron-labels]",
            "---",
            "",
            f"# What the neurons of {m['target']['name']} {m['target']['layer']} respond to",
            "",
            f"{counted(len(rows), 'label')} by {m['primary']}, with their evidence: "
            f"{counted(m['images']['count'], 'image')} of {m['images']['name']}, "
            f"{counted(run.concepts.num_rows, 'concept')}, encoder {m['encoder']['name']}. {pictures} A label is "
            "the best match within this vocabulary to this encoder; it is a hypothesis about the neuron.",
            "",
            "```console",
            f"contralens pull {where} --out run",
            "contralens show run 0",
            "```",
            "",
            "`labels.json` is a contralens label file, version 1; `run/` holds the run that it was made from.",
            "",
            "| neuron | label | score |",
            "|---|---|---|",
            *lines,
            *more,
            "",
        ]
    )


# --- what comes back ---


@contextmanager
def _called(made: Path, name: str) -> Iterator[None]:
    """Errors about a copy name what it is a copy of."""
    try:
        yield
    except (InputError, RunError) as e:
        raise type(e)(str(e).replace(str(made), name)) from e


def _same_labels(run: Run, file: LabelFile) -> bool:
    """Whether a label file holds the labels of a run: as finally judged, or by an older contralens as they were scored.

    p and fdr are those of the labeling itself.
    """
    judged = final(run, corrections=False).labels
    for name in ("p", "fdr"):
        judged = judged.set_column(judged.schema.get_field_index(name), name, run.labels[name])
    return bool(file.labels.equals(judged.select(LABELS.names)) or file.labels.equals(run.labels))


def _checked(folder: Path, source: str) -> list[PurePosixPath]:
    """The files of a pushed folder, after a look that they are all there and as they were."""
    try:
        content = json.loads((folder / "share.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{source} has nothing that `contralens push` wrote (no share.json)") from None
    except (OSError, ValueError, RecursionError) as e:
        raise RunError(f"{source}: share.json cannot be read: {first_line(e)}") from e
    if not isinstance(content, dict) or content.get("format") != NAME or not isinstance(content.get("files"), dict):
        raise InputError(f"{source}: share.json is not one of contralens")
    if content.get("version") not in READABLE:
        raise InputError(f"{source} has version {content.get('version')!r}; this contralens reads {VERSION}")
    files = [PurePosixPath(name) for name in content["files"] if name != "README.md"]
    for file in files:
        known = file.parts == ("labels.json",) or (file.parts[:1] == ("run",) and 2 <= len(file.parts) <= 3)
        if (
            not known
            or str(file) not in content["files"]
            or ".." in file.parts
            or file.suffix not in _KINDS
            or "\\" in str(file)
        ):
            raise RunError(f"{source}: share.json lists {str(file)!r}, which is not part of a run")
        try:
            same = file_digest(inside(folder, str(file))) == content["files"][str(file)]
        except FileNotFoundError:
            raise RunError(f"{source}: {file} is missing; pull again") from None
        if not same:
            raise RunError(f"{source}: {file} differs from what was pushed; pull again")
    if PurePosixPath("labels.json") not in files:
        raise RunError(f"{source}: share.json lists no labels.json")
    check_seal(folder / "share.json", content, "Share", needed=content["version"] > 1)
    check_schema(folder / "share.json", content, "Share")
    return files
