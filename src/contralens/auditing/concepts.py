"""Lists of expected and spurious concepts, from YAML; those in lists/ are shipped: `concept_list("dermoscopy")`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from contralens.checks import nearest
from contralens.config import known_keys, read_yaml
from contralens.data.atomic_files import digest
from contralens.errors import InputError, KindError

LISTS = files("contralens.auditing") / "lists"
SIDES = ("expected", "spurious", "other")
KEYS = ("title", "about", "templates", *SIDES)
CONCEPT_KEYS = ("name", "synonyms", "prompts")


@dataclass(frozen=True, slots=True)
class Concept:
    """One concept of a list, in all the words for it.

    >>> Concept("ruler", "spurious", ("scale bar",)).wordings
    ('ruler', 'scale bar')
    """

    name: str
    """As verdicts call it."""
    side: str
    """ "expected", "spurious" or "other"."""
    synonyms: tuple[str, ...] = ()
    """Other words for it; each is asked for on its own, in every template."""
    prompts: tuple[str, ...] = ()
    """Whole texts, asked as they are, without a template."""

    @property
    def wordings(self) -> tuple[str, ...]:
        """The name and its synonyms, which go into templates."""
        return (self.name, *self.synonyms)


@dataclass(frozen=True, slots=True)
class ConceptList:
    """Concepts that a classifier should use, concepts that it should not use, and others that compete with both.

    >>> found = concept_list("dermoscopy")
    >>> len(found), found.side("spurious")[0].name, len(found.fingerprint)
    (28, 'ruler', 32)
    """

    title: str
    about: str
    templates: tuple[str, ...]
    """(T) prompts; a wording is put where {} stands."""
    concepts: tuple[Concept, ...]
    """(C): expected, spurious, other."""
    source: str = ""
    """Where it was read from."""

    def __len__(self) -> int:
        return len(self.concepts)

    def __iter__(self) -> Iterator[Concept]:
        return iter(self.concepts)

    def side(self, side: str) -> tuple[Concept, ...]:
        """The concepts of one side, "expected", "spurious" or "other"."""
        return tuple(c for c in self.concepts if c.side == side)

    @property
    def fingerprint(self) -> str:
        """32 hex digits over all wordings in order; title and source do not count."""
        parts = ["concept list 1", *self.templates]
        for c in self.concepts:
            parts += ["concept", c.side, c.name, *c.synonyms, "prompts", *c.prompts]
        return digest(*parts)


def shipped() -> list[str]:
    """Names of the lists that come with contralens.

    >>> shipped()
    ['dermoscopy', 'photographs']
    """
    return sorted(f.name.removesuffix(".yaml") for f in LISTS.iterdir() if f.name.endswith(".yaml"))


def concept_list(spec: str | Path | Mapping[str, Any] | ConceptList) -> ConceptList:
    """A list of expected and spurious concepts.

    Args:
        spec: the name of a shipped list ("dermoscopy", "photographs"), a YAML file, the same as a dict, or a list that
            is returned as it is. The file holds title, about, templates (prompts with {}; by default the wording
            alone), and the concepts under `expected`, `spurious` and, optionally, `other`, each a name or {name,
            synonyms, prompts}. A neuron whose best concept is in `other` is unexplained.

    Raises:
        InputError: no such list or file, no YAML, an unknown key, a side without concepts, a wording that occurs twice.

    >>> found = concept_list({"expected": ["stripes"], "spurious": [{"name": "ruler", "synonyms": ["scale bar"]}]})
    >>> [(c.side, c.wordings) for c in found]
    [('expected', ('stripes',)), ('spurious', ('ruler', 'scale bar'))]
    """
    if isinstance(spec, ConceptList):
        return spec
    if isinstance(spec, Mapping):
        return _read(spec, "a dict")
    if not isinstance(spec, (str, Path)):
        raise KindError(f"`concepts` must be a name, a file, a dict or a ConceptList; got {type(spec).__name__}")
    name = str(spec)
    path = Path(str(LISTS)) / f"{name}.yaml" if name in shipped() else Path(spec).expanduser()
    if not path.exists():
        hint = nearest(name, shipped()) or f"; shipped lists are {', '.join(shipped())}, or give a YAML file"
        raise InputError(f"no concept list {name!r}{hint}")
    return _read(read_yaml(path, "concept list"), name)


def _read(given: Any, where: str) -> ConceptList:
    known_keys(given, KEYS, f"concept list {where}")
    templates = _texts(given.get("templates", ["{}"]), f"concept list {where}: templates")
    for template in templates:
        if "{}" not in template:
            raise InputError(f"concept list {where}: the template {template!r} has no {{}} for the concept")
    if not templates:
        raise InputError(f"concept list {where}: templates is empty; omit it to use the concepts as they are")
    concepts = []
    for side in SIDES:
        if side == "other" and not given.get(side):
            continue
        rows = given.get(side)
        if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
            raise InputError(f"concept list {where} needs a list of concepts under `{side}`; got {rows!r}")
        concepts += [_concept(row, side, f"concept list {where}: {side}") for row in rows]
    seen: dict[str, str] = {}
    for concept in concepts:
        for text in (*concept.wordings, *concept.prompts):
            if text.casefold() in seen:
                raise InputError(
                    f"concept list {where}: {text!r} appears twice, under {seen[text.casefold()]!r} and "
                    f"{concept.name!r}; one wording belongs to one concept"
                )
            seen[text.casefold()] = concept.name
    title, about = (" ".join(str(given.get(key) or "").split()) for key in ("title", "about"))
    return ConceptList(title or Path(where).stem, about, templates, tuple(concepts), where)


def _concept(row: Any, side: str, where: str) -> Concept:
    if isinstance(row, str):
        row = {"name": row}
    known_keys(row, CONCEPT_KEYS, where)
    name = row.get("name")
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{where}: a concept has no name; got {dict(row)!r}")
    inner = f"{where}: {name}"
    return Concept(
        _tidy(name), side, _texts(row.get("synonyms") or [], f"{inner}: synonyms"),
        _texts(row.get("prompts") or [], f"{inner}: prompts"),
    )  # fmt: skip


def _texts(given: Any, where: str) -> tuple[str, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise InputError(f"{where} must be a list of texts; got {given!r}")
    for text in given:
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where} must hold texts; got {text!r} (quote it if it is a number or yes/no)")
    return tuple(_tidy(text) for text in given)


def _tidy(text: str) -> str:
    return " ".join(text.split())
