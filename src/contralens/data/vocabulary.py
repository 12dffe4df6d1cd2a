"""Vocabularies: the concepts that a neuron can be labeled with, read from a file, a list or a built-in, and linted."""

from __future__ import annotations

import hashlib
import importlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from contralens.checks import nearest, shown
from contralens.data.word_files import TEXT_HEADERS, of_content, read_words
from contralens.data.wordnet import find_wordnet, singulars, synonyms
from contralens.errors import InputError, KindError, MissingPackage
from contralens.plugs import Registry
from contralens.specs import part_of

__all__ = ["VOCABULARIES", "Lint", "Vocabulary", "read_vocabulary"]

LONG_WORDS = 40
"""Texts with more words than this probably exceed the 64 tokens of SigLIP or the 77 of CLIP."""


@dataclass(frozen=True, slots=True)
class Lint:
    """What was changed or looks odd in a vocabulary: a count and a few examples per kind.

    >>> lint = read_vocabulary(["polar_bear", "zebra"]).lint
    >>> lint.lines()
    ["1 with underscores, replaced by spaces: 'polar_bear'"]
    >>> lint.add("long", "a text of more than forty words")
    >>> lint.counts["long"]
    1
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """How the file was read, where it is more than one concept a line."""

    def add(self, kind: str, example: str) -> None:
        """Count one more of a kind."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        shown = self.examples.setdefault(kind, [])
        if example and len(shown) < 5:
            shown.append(example[:80])

    def lines(self) -> list[str]:
        """The notes, and one line per kind, for people."""
        made = list(self.notes)
        for kind, count in self.counts.items():
            shown = ", ".join(repr(example) for example in self.examples[kind])
            made.append(f"{count} {KINDS[kind]}" + (f": {shown}" if shown else ""))
        return made


KINDS = {
    "empty": "empty, dropped",
    "underscores": "with underscores, replaced by spaces",
    "spaces": "with leading, trailing or repeated spaces, cleaned",
    "non_printing": "with characters that do not print, removed",
    "duplicates": "duplicates (ignoring case), dropped",
    "long": f"longer than {LONG_WORDS} words: an encoder may not read their end",
    "no_letters": "without any letter",
    "numbers": "that begin with a number as in a numbered list, kept",
    "ids": "that begin with a WordNet id, kept",
    "bullets": "that begin with a bullet or #, kept",
    "header": "that may be a header rather than a concept",
    "plurals": "whose singular is also there",
}
_ODD = {
    "numbers": re.compile(r"\d+\s*[.):]\s*[^\W\d]"),
    "ids": re.compile(r"n\d{8}\b"),
    "bullets": re.compile(r"[-*\u2022#]\s"),
}
"""How lines begin that were to be something else."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Concepts (C) in the order given, where they came from, and what the linting found.

    >>> found = read_vocabulary(["polar_bear", "zebra"])
    >>> found.concepts, found.source, len(found.fingerprint)
    (['polar bear', 'zebra'], 'a list', 32)
    """

    concepts: list[str]
    source: str
    lint: Lint

    def __len__(self) -> int:
        return len(self.concepts)

    @property
    def fingerprint(self) -> str:
        """32 hex digits: hash of the concepts in their order."""
        return hashlib.sha256("\0".join(["vocabulary-1", *self.concepts]).encode()).hexdigest()[:32]

    def synonyms(self) -> list[tuple[str, str]]:
        """Pairs of concepts that share their most frequent meaning in WordNet; nothing where WordNet is not installed.

        >>> read_vocabulary(["car", "cat", "automobile"]).synonyms()
        [('car', 'automobile')]
        """
        try:
            return synonyms(self.concepts, find_wordnet())
        except MissingPackage:
            return []


def read_vocabulary(
    spec: str | Path | Sequence[str] | Mapping[str, Any] | Vocabulary, column: int | str | None = None
) -> Vocabulary:
    r"""The concepts that `spec` stands for, cleaned.

    Underscores become spaces, repeated spaces one, characters that do not print go, empty entries and duplicates are
    dropped (the first spelling stays); `.lint` counts and shows all of it, says how a file was read, and reports texts
    that look too long, doubled or like something else than a concept.

    Args:
        spec: the name of a vocabulary (`VOCABULARIES`) or FILE.py:NAME of a function of yours that returns texts, a
            text file with one concept a line (numbers, bullets or WordNet ids before all of them are removed), a
            .csv or .tsv file, JSON or YAML (a list, or a list for each class), or such a list or dictionary. A file
            that is called like a built-in is written ./name; the column of a table may follow it, "classes.csv:name".
            A `Vocabulary` stays as it is.
        column: which column of a .csv or .tsv file: its number from 0 (all rows are taken), or the name that the first
            row gives it; None takes the one column of texts, without a header of known words.

    Raises:
        InputError: missing or unreadable file, nothing in it, one concept alone, or a form that leaves open what the
            concepts are.

    >>> vocabulary = read_vocabulary(["polar_bear", "zebra", "Zebra", ""])
    >>> vocabulary.concepts
    ['polar bear', 'zebra']
    >>> vocabulary.lint.counts
    {'underscores': 1, 'duplicates': 1, 'empty': 1}
    """
    if isinstance(spec, Vocabulary):
        return spec
    notes: list[str] = []
    if isinstance(spec, str) and (spec in VOCABULARIES or (VOCABULARIES.names(spec) and not Path(spec).exists())):
        kind, about = "built-in " if spec in VOCABULARIES.built_in else "", VOCABULARIES.about(spec)
        raw, source = list(VOCABULARIES.make(spec)), f"{kind}{spec}: {about}"
    elif isinstance(spec, (str, Path)):
        raw, notes = _read_file(spec, column)
        source = str(spec)
    elif isinstance(spec, Mapping):
        source = "a dictionary"
        raw, notes = of_content(spec, f"({source})")
    elif isinstance(spec, Iterable):
        raw, source = list(spec), "a list"
    else:
        raise KindError(f"a vocabulary is a name, a file or a list of texts; got {shown(spec)}")
    return _cleaned(raw, source, notes)


def _cleaned(raw: Iterable[object], source: str, notes: list[str]) -> Vocabulary:
    lint = Lint(notes=notes)
    kept: dict[str, str] = {}
    for entry in raw:
        if not isinstance(entry, str):
            raise InputError(f"vocabulary ({source}): entries must be texts; got {entry!r}")
        text = _tidy(entry, lint)
        if not text:
            lint.add("empty", entry.strip())
        elif text.casefold() in kept:
            lint.add("duplicates", text)
        else:
            kept[text.casefold()] = text
            if len(text.split()) > LONG_WORDS:
                lint.add("long", text)
            if not any(c.isalpha() for c in text):
                lint.add("no_letters", text)
            for kind, begins in _ODD.items():
                if begins.match(text):
                    lint.add(kind, text)
    concepts = list(kept.values())
    if len(concepts) > 2 and concepts[0].casefold() in TEXT_HEADERS - {"text", "word", "description"}:
        lint.add("header", concepts[0])
    for text in concepts:
        if any(single != text.casefold() and single in kept for single in singulars(text)):
            lint.add("plurals", text)
    where = source.split(":")[0]
    if not concepts:
        raise InputError(f"vocabulary ({where}) is empty; it needs at least two concepts, one a line")
    if len(concepts) == 1:
        raise InputError(
            f"vocabulary ({where}) holds only {concepts[0][:80]!r}; with one concept there is nothing to choose "
            "between: it needs at least two"
        )
    return Vocabulary(concepts, source, lint)


def _tidy(entry: str, lint: Lint) -> str:
    text = unicodedata.normalize("NFC", entry).replace("\ufeff", "").strip("\r\n")
    printing = "".join(c if c.isprintable() or c.isspace() else "" for c in text)
    if printing != text:
        lint.add("non_printing", printing)
    if "_" in printing:
        lint.add("underscores", printing)
        printing = printing.replace("_", " ")
    text = " ".join(printing.split())
    if text and text != printing:
        lint.add("spaces", text)
    return text


def _read_file(spec: str | Path, column: int | str | None) -> tuple[list[str], list[str]]:
    path = Path(spec).expanduser()
    if not path.exists() and column is None and isinstance(spec, str):
        before, named = part_of(spec)
        if before and named and Path(before).expanduser().is_file():
            path, column = Path(before).expanduser(), named
    if not path.exists():
        raise InputError(
            f"vocabulary: there is no file {path}{nearest(str(spec), VOCABULARIES)}; "
            f"built-in are {', '.join(VOCABULARIES)}"
        )
    return read_words(path, column)


# --- built-in vocabularies ---


def _imagenet() -> list[str]:
    """names of the 1,000 ImageNet (ILSVRC 2012) classes, in index order, as torchvision lists them with its
    weights; 999 concepts, since the dog Cardigan and the garment cardigan count as one
    """
    from torchvision.models import EfficientNet_B0_Weights

    return list(EfficientNet_B0_Weights.DEFAULT.meta["categories"])


def _coco() -> list[str]:
    """names of the 80 object categories of MS COCO, as torchvision lists them with its detection weights"""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]
    return [name for name in names if name not in ("__background__", "N/A")]


_COLOUR_WORDS = (
    "alice antique aqua aquamarine azure beige bisque black blanched almond blue violet blush brown burlywood cadet "
    "chartreuse chiffon chocolate coral cornflower cornsilk cream crimson cyan dark deep dim dodger drab firebrick "
    "floral forest fuchsia gainsboro ghost gold goldenrod gray green honeydew hot indian indigo ivory khaki lace "
    "lavender lawn lemon light lime linen magenta maroon medium midnight mint misty moccasin navajo navy old olive "
    "orange orchid pale papaya peach peru pink plum powder puff purple rebecca red rose rosy royal saddle salmon sandy "
    "sea seashell sienna silver sky slate smoke snow spring steel tan teal thistle tomato turquoise wheat whip white "
    "yellow"
)


def _colours() -> list[str]:
    """names of the CSS colours, from Pillow's ImageColor, split into words; spellings with 'grey' left out"""
    from PIL import ImageColor

    return [_split(name) for name in ImageColor.colormap if "grey" not in name]


def _split(name: str) -> str:
    """ "darkolivegreen" to "dark olive green": the longest known word first, back to shorter ones where stuck."""

    def rest(text: str) -> list[str] | None:
        if not text:
            return []
        for word in sorted((w for w in _COLOUR_WORDS.split() if text.startswith(w)), key=len, reverse=True):
            tail = rest(text[len(word) :])
            if tail is not None:
                return [word, *tail]
        return None

    return " ".join(rest(name) or [name])


def _textures() -> list[str]:
    """the 47 adjectives of the Describable Textures Dataset (Cimpoi et al., CVPR 2014)"""
    names = (
        "banded blotchy braided bubbly bumpy chequered cobwebbed cracked crosshatched crystalline dotted fibrous "
        "flecked freckled frilly gauzy grid grooved honeycombed interlaced knitted lacelike lined marbled matted "
        "meshed paisley perforated pitted pleated polka-dotted porous potholed scaly smeared spiralled sprinkled "
        "stained stratified striped studded swirly veined waffled woven wrinkled zigzagged"
    )
    return names.split()


def _dermoscopy() -> list[str]:
    """the concepts of the audit's list of that name: what dermatologists look at, and artefacts"""
    text = (files("contralens") / "auditing" / "lists" / "dermoscopy.yaml").read_text(encoding="utf-8")
    listed = yaml.safe_load(text)
    return [concept["name"] for side in ("expected", "spurious") for concept in listed[side]]


def _world() -> list[str]:
    """what can be seen in the rendered world of the demo (contralens.world)"""
    # By name: the world is a room of its own, and this one only borrows its list of words.
    return [concept.text for concept in importlib.import_module("contralens.world.captions").concepts()]


VOCABULARIES: Registry[Callable[..., Sequence[str]]] = Registry(
    "vocabularies",
    {
        "imagenet": _imagenet,
        "coco": _coco,
        "colours": _colours,
        "textures": _textures,
        "dermoscopy": _dermoscopy,
        "world": _world,
    },
    one="vocabulary",
)
"""Functions that return texts, by name; their docstrings say where the words come from. A package adds one with an
entry point in the group "contralens.vocabularies"."""
