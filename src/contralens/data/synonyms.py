"""When two texts name the same thing: case, "_", the parts of a class name, the synonyms of a noun."""

from __future__ import annotations

from collections.abc import Sequence

from contralens.data.wordnet import WordNet, find_wordnet
from contralens.errors import MissingPackage


def plain(text: str) -> str:
    """
    >>> plain("Great_White  shark")
    'great white shark'
    """
    return " ".join(text.replace("_", " ").casefold().split())


def words_of(name: str, wordnet: WordNet | None = None) -> set[str]:
    """A name, its parts between commas, and with WordNet the other words of a noun's only meaning.

    >>> sorted(words_of("Tench, Tinca_tinca"))
    ['tench', 'tench, tinca tinca', 'tinca tinca']
    """
    parts = {plain(part) for part in (name, *name.split(","))} - {""}
    if wordnet is not None:
        for part in list(parts):
            senses = wordnet.senses(part)
            if len(senses) == 1:
                parts |= {plain(word) for word in senses[0].words}
    return parts


def synonyms() -> WordNet | None:
    """WordNet, if it is installed."""
    try:
        return find_wordnet()
    except MissingPackage:
        return None


class Wording:
    """Finds what names mean in a vocabulary.

    >>> Wording(["red fox", "Tabby"]).of("tabby, tabby cat")
    {1}
    """

    def __init__(self, concepts: Sequence[str]) -> None:
        self.wordnet = synonyms()
        self.at: dict[str, set[int]] = {}
        for i, concept in enumerate(concepts):
            self.at.setdefault(plain(concept), set()).add(i)

    def of(self, name: str) -> set[int]:
        """Indices of the concepts that say the same as the name."""
        return {i for word in words_of(name, self.wordnet) for i in self.at.get(word, ())}
