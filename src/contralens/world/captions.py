"""Captions of scenes over a closed vocabulary with synonyms, and the concepts that labels can name."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contralens.world.scenes import FACTORS, NAMES, Scenes

SYNONYMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "shape": (
        ("circle", "disc"), ("square", "box"), ("triangle", "wedge"), ("star", "pentagram"),
        ("heart", "valentine"), ("cross", "plus"), ("moon", "crescent"), ("ring", "hoop", "donut"),
    ),
    "colour": (
        ("red", "crimson", "scarlet"), ("orange", "tangerine"), ("yellow", "golden"), ("green", "emerald"),
        ("blue", "azure"), ("purple", "violet"), ("pink", "rose"), ("white", "ivory"),
    ),
    "pattern": (
        ("plain", "solid", "uniform"), ("striped", "banded", "stripy"), ("dotted", "spotted", "speckled"),
        ("checkered", "chequered", "checked"), ("zigzag", "jagged", "chevron"), ("split", "halved", "bicoloured"),
    ),
    "background": (
        ("sand", "beach", "desert"), ("grass", "lawn", "meadow"), ("water", "sea", "lake"),
        ("brick", "bricks", "wall"), ("snow", "ice"), ("night", "space", "midnight"),
    ),
    "size": (("small", "little", "tiny"), ("large", "big", "huge")),
    "count": (("one", "single", "lone"), ("two", "double", "pair"), ("three", "triple", "trio")),
    "position": (("left",), ("centre", "center", "middle"), ("right",)),
    "lighting": (("bright", "sunny", "brightly"), ("dim", "dark", "dimly")),
}  # fmt: skip
"""Words for every level of every factor, the canonical name first. No word stands for two levels."""

_PLURALS = {"box": "boxes", "cross": "crosses", "plus": "pluses"}
FILLERS = (
    "a", "an", "and", "at", "background", "from", "front", "ground", "image", "in", "is", "it", "light", "lit", "near",
    "object", "objects", "of", "on", "over", "pattern", "photo", "picture", "scene", "shape", "shapes", "showing",
    "side", "surface", "the", "there", "thing", "things", "with",
)  # fmt: skip
"""Words that carry no level; a vocabulary file for this world may use them freely."""


def plural(word: str) -> str:
    """The plural of a shape word."""
    return _PLURALS.get(word, word + "s")


LEVEL_OF: dict[str, tuple[str, int]] = {
    form: (factor, number)
    for factor, levels in SYNONYMS.items()
    for number, words in enumerate(levels)
    for word in words
    for form in ({word, plural(word)} if factor == "shape" else {word})
}
"""Which level a word names."""
VOCABULARY: tuple[str, ...] = tuple(sorted({*LEVEL_OF, *FILLERS}))
"""Every word that a caption can hold; the text tower knows these and no others."""


def words(text: str) -> list[str]:
    """Lower-case words of a text.

    >>> words("A red, STRIPED thing")
    ['a', 'red', 'striped', 'thing']
    """
    return re.findall(r"[a-z]+", text.lower())


@dataclass(frozen=True, slots=True)
class Concept:
    """A label candidate and the levels that it names."""

    text: str
    levels: tuple[tuple[str, int], ...]
    """(factor, level number), one for a single-factor concept, two for a combination."""


def concept_text(factor: str, name: str) -> str:
    """How one level is called as a label.

    >>> concept_text("pattern", "striped"), concept_text("background", "sand"), concept_text("count", "two")
    ('striped', 'sand background', 'two objects')
    """
    forms = {"background": "{} background", "lighting": "{} light", "position": "on the {}", "size": "{} objects"}
    if factor == "count":
        return f"{name} object" if name == "one" else f"{name} objects"
    return ("in the {}" if name == "centre" else forms.get(factor, "{}")).format(name)


def concepts(most: int = 1) -> list[Concept]:
    """Label candidates: the 38 single levels, and with `most=2` also the pairs of shape, colour, pattern, background.

    >>> len(concepts()), len(concepts(2))
    (38, 330)
    >>> [c.text for c in concepts(2) if c.text in ("red striped", "striped triangle", "triangle on sand")]
    ['striped triangle', 'triangle on sand', 'red striped']
    """
    single = [
        Concept(concept_text(factor, name), ((factor, number),))
        for factor, names in FACTORS.items()
        for number, name in enumerate(names)
    ]
    if most == 1:
        return single
    order = {"colour": 0, "pattern": 1, "shape": 2}
    main = [c for c in single if c.levels[0][0] in (*order, "background")]
    pairs = []
    for one, two in itertools.combinations(main, 2):
        (a, _), (b, to) = one.levels[0], two.levels[0]
        if a == b:
            continue
        if b == "background":
            text = f"{one.text} on {FACTORS[b][to]}"
        else:
            text = " ".join(c.text for c in sorted((one, two), key=lambda c: order[c.levels[0][0]]))
        pairs.append(Concept(text, (one.levels[0], two.levels[0])))
    return single + pairs


def meaning(label: str) -> frozenset[tuple[str, int]]:
    """The levels that a label names, synonyms included.

    >>> sorted(meaning("scarlet stripy things"))
    [('colour', 0), ('pattern', 1)]
    """
    return frozenset(LEVEL_OF[word] for word in words(label) if word in LEVEL_OF)


def names(label: str, factor: str, number: int, only: bool = False) -> bool:
    """Whether a label names this level of this factor; with `only`, and nothing else besides.

    >>> names("banded", "pattern", 1), names("red striped", "pattern", 1), names("red striped", "pattern", 1, only=True)
    (True, True, False)
    """
    found = meaning(label)
    return (factor, number) in found and (not only or len(found) == 1)


_MENTION = np.array([0.8, 0.8, 0.8, 0.8, 0.5, 0.5, 0.5, 0.5])
"""How often a long caption speaks of each factor, in the order of FACTORS."""


def captions(scenes: Scenes, seed: int) -> list[str]:
    """One caption per scene, with random synonyms, order and omissions; the same for the same seed.

    Half of the captions speak of most factors, half of one to three only, so that short labels are in their range.

    >>> from contralens.world.scenes import sample_scenes
    >>> captions(sample_scenes(2, seed=1), seed=1) == captions(sample_scenes(2, seed=1), seed=1)
    True
    """
    rng = np.random.default_rng(seed)
    n = len(scenes)
    said = rng.random((n, len(NAMES))) < _MENTION
    few = np.argsort(rng.random((n, len(NAMES))), 1) < rng.integers(1, 4, n)[:, None]
    said = np.where((rng.random((n, 1)) < 0.5) & said.any(1, keepdims=True), said, few)
    choice = rng.random((n, len(NAMES) + 4))
    return [_caption(*row) for row in zip(scenes.levels, said, choice, strict=True)]


def one_factor_captions(factor: str, number: int, n: int, seed: int) -> list[str]:
    """`n` captions that speak of this level and of no other factor, in various words.

    >>> {tuple(meaning(text)) for text in one_factor_captions("pattern", 1, 9, seed=0)}
    {(('pattern', 1),)}
    """
    rng = np.random.default_rng(seed)
    levels = np.stack([rng.integers(len(names), size=n) for names in FACTORS.values()], axis=1)
    levels[:, NAMES.index(factor)] = number
    said = np.array([name == factor for name in NAMES])
    return [_caption(row, said, rng.random(len(NAMES) + 4)) for row in levels]


def _caption(levels: NDArray[np.int64], said: NDArray[np.bool_], choice: NDArray[np.float64]) -> str:
    part: dict[str, str] = {}
    for i, factor in enumerate(NAMES):
        if said[i]:
            forms = SYNONYMS[factor][levels[i]]
            part[factor] = forms[int(choice[i] * len(forms))]
    opening, noun_word, tail, order = choice[len(NAMES) :]
    many = levels[NAMES.index("count")] > 0
    noun = part.get("shape")
    if noun is not None:
        noun = plural(noun) if many else noun
    elif noun_word < 0.6 and (part.keys() & {"colour", "pattern", "size", "count"}):
        noun = ("things" if many else "thing") if noun_word < 0.3 else ("objects" if many else "object")
    about = [part[f] for f in ("size", "colour", "pattern") if f in part]
    if order < 0.3:
        about.reverse()
    about = [*([part["count"]] if "count" in part else []), *about, *([noun] if noun else [])]
    clauses = [" ".join(about)] if about else []
    extra = []
    if "background" in part:
        ground = part["background"]
        bare, whole = ("on {}", "on the {}"), ("{} background", "in front of the {}", "with a {} background", "{}")
        forms = bare + whole if clauses else (*whole, "on {}")
        extra.append(forms[int(tail * len(forms))].format(ground))
    if "position" in part:
        side = part["position"]
        extra.append(f"in the {side}" if side in SYNONYMS["position"][1] else f"on the {side}")
    if "lighting" in part:
        light = part["lighting"]
        extra.append(
            f"{light} lit" if light.endswith("ly") else ("in {} light" if tail < 0.5 else "{} light").format(light)
        )
    if order > 0.6:
        extra.reverse()
    text = " ".join([*clauses, *extra])
    start = ("", "", "a picture of ", "a photo of ", "an image showing ", "there is ")
    return start[int(opening * len(start))] + text
