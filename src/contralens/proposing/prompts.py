"""What a vision-language model is asked, what it must answer, and which pictures of a neuron it sees. Needs no
torch."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contralens.checks import nearest
from contralens.errors import InputError

__all__ = ["PROMPTS", "Prompt", "ReplyError", "Shown", "choose", "clean", "parse_reply", "read_prompt", "schema"]

PROMPTS: dict[str, str] = {
    "contrastive": """\
Below are pictures in two groups, chosen by one unit of a vision network. {domain}

Group A, pictures on which the unit is strongly active:
{positives}

Group B, pictures that look similar to group A but leave the unit inactive:
{contrasts}

What sets group A apart? Name {count} visual concepts that can be seen in every picture of group A and in no picture of
group B. Be as specific as the pictures allow. Leave out whatever both groups share, however striking it is. Each
concept is a short noun phrase or adjective of at most {words} words, in lower case.

Answer with one JSON object and nothing else, in this form: {"concepts": ["...", "..."]}""",
    "positives": """\
Below are pictures on which one unit of a vision network is strongly active. {domain}

{positives}

What do they share? Name {count} visual concepts that can be seen in every one of these pictures. Be as specific as the
pictures allow. Each concept is a short noun phrase or adjective of at most {words} words, in lower case.

Answer with one JSON object and nothing else, in this form: {"concepts": ["...", "..."]}""",
}
"""The built-in prompts by name (Bouanani et al. 2026 ask with both groups; positives alone are their baseline)."""

REPAIR = (
    "That answer cannot be used: {error}. Answer again with one JSON object and nothing else, with at most {count} "
    'concepts of at most {words} words each, in this form: {"concepts": ["...", "..."]}'
)
"""What a model is asked, once, after an answer that breaks the rules."""

MOST_CHARACTERS = 80
"""Characters of a concept."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A template with its numbers filled in."""

    name: str
    """A built-in name, or the stem of the user's file."""
    text: str
    """With {positives} and perhaps {contrasts} still in place: there the pictures go."""
    count: int
    words: int

    @property
    def contrastive(self) -> bool:
        """Whether contrasts are shown."""
        return "{contrasts}" in self.text

    def parts(self, positives: Sequence[bytes], contrasts: Sequence[bytes], about: Sequence[str]) -> list[str | bytes]:
        """Texts and pictures in the order a model reads them; `about` says what the pictures of each group are."""
        out: list[str | bytes] = []
        for piece in re.split(r"(\{positives\}|\{contrasts\})", self.text):
            if piece == "{positives}":
                out += [about[0], *positives]
            elif piece == "{contrasts}":
                out += [about[1], *contrasts]
            elif piece.strip():
                out.append(piece.strip())
        return out

    def repair(self, error: str) -> str:
        """The second and last question, after a reply that broke the rules."""
        return _fill(REPAIR, {"error": error, "count": str(self.count), "words": str(self.words)})


def read_prompt(spec: str | Path, *, count: int = 3, words: int = 4, domain: str = "") -> Prompt:
    """The prompt that `spec` names: "contrastive", "positives", or a text file with a template of one's own.

    In a template {positives} and {contrasts} stand for the pictures ({contrasts} may be left out: then contrasts are
    not shown), {count} and {words} for the number and length of concepts, {domain} for a sentence with the hint.

    Raises:
        InputError: no such prompt or file, a template without {positives}, numbers below one.

    >>> read_prompt("positives", count=2, domain="dermoscopy").text.splitlines()[0]
    'Below are pictures on which one unit of a vision network is strongly active. The domain is: dermoscopy.'
    """
    if count < 1 or words < 1:
        raise InputError(f"a prompt asks for at least 1 concept of at least 1 word; got {count} and {words}")
    name = str(spec)
    if name in PROMPTS:
        template = PROMPTS[name]
    else:
        path = Path(spec).expanduser()
        if not path.is_file():
            raise InputError(
                f"unknown prompt {name!r}{nearest(name, PROMPTS)}; known are {', '.join(PROMPTS)}, or give a text file"
            )
        try:
            template, name = path.read_text(encoding="utf-8"), path.stem
        except (OSError, UnicodeDecodeError) as e:
            raise InputError(f"prompt {path} cannot be read as UTF-8 text: {e}") from e
        for slot, most in (("{positives}", 1), ("{contrasts}", 1)):
            if template.count(slot) > most:
                raise InputError(f"prompt {path} holds {slot} {template.count(slot)} times; once is enough")
        if "{positives}" not in template:
            raise InputError(f"prompt {path} has no {{positives}}, the place where the activating images go")
    hint = f"The domain is: {domain.strip().rstrip('.')}." if domain.strip() else ""
    text = _fill(template, {"count": str(count), "words": str(words), "domain": hint})
    return Prompt(name, "\n".join(line.rstrip() for line in text.splitlines()), count, words)


def _fill(template: str, values: Mapping[str, str]) -> str:
    """Put values where {name} stands; all other braces stay, so that a template may show JSON."""
    pattern = "|".join(map(re.escape, values))
    return re.sub(r"\{(" + pattern + r")\}", lambda found: values[found[1]], template)


# --- replies ---


class ReplyError(ValueError):
    """A reply that breaks the rules; the text says how, for the repair and for the record.

    >>> try:
    ...     parse_reply('{"concepts": []}', count=3, words=4)
    ... except ReplyError as e:
    ...     print(e)
    it holds no concept
    """


def schema(count: int) -> dict[str, Any]:
    """The JSON schema of a reply, for servers that hold a model to it. Replies are checked all the same."""
    return {
        "type": "object",
        "properties": {
            "concepts": {
                "type": "array",
                "items": {"type": "string", "minLength": 1, "maxLength": MOST_CHARACTERS},
                "minItems": 1,
                "maxItems": count,
            }
        },
        "required": ["concepts"],
        "additionalProperties": False,
    }


def parse_reply(text: str, count: int, words: int) -> list[str]:
    r"""The concepts in a reply: at most `count`, each cleaned and of at most `words` words.

    The reply must be one JSON object as `schema` describes it, bare or inside one code fence; what a reasoning model
    puts before it between <think> and </think> is skipped. Single concepts that are empty, too long or repeated are
    left out; a reply without any usable one is refused.

    Raises:
        ReplyError: anything else. Nothing is ever read out of running text.

    >>> parse_reply('```json\n{"concepts": ["Red Stripes.", "a disc"]}\n```', 3, 4)
    ['red stripes', 'disc']
    >>> parse_reply("red stripes, disc", 3, 4)
    Traceback (most recent call last):
        ...
    contralens.proposing.prompts.ReplyError: it is not JSON
    """
    if len(text) > 100_000:
        raise ReplyError(f"it is {len(text):,} characters long")
    body = re.sub(r"\A\s*<think>.*?</think>", "", text, flags=re.DOTALL).strip()
    fenced = re.fullmatch(r"```(?:json|JSON)?[ \t]*\n?(.*?)\n?```", body, flags=re.DOTALL)
    try:
        value = json.loads(fenced[1] if fenced else body, strict=False)  # a raw tab in a text is no harm
    except (ValueError, RecursionError):
        raise ReplyError("it is empty" if not body else "it is not JSON") from None
    if not isinstance(value, dict) or set(value) != {"concepts"}:
        raise ReplyError('it is not an object with the one member "concepts"')
    concepts = value["concepts"]
    if not isinstance(concepts, list) or not all(isinstance(c, str) for c in concepts):
        raise ReplyError('"concepts" is not a list of texts')
    if len(concepts) > count:
        raise ReplyError(f"it holds {len(concepts)} concepts")
    usable = [c for c in map(clean, concepts) if c and len(c) <= MOST_CHARACTERS and len(c.split()) <= words]
    if not usable:
        raise ReplyError("it holds no concept" if not concepts else f"no concept in it has 1 to {words} words")
    return list(dict.fromkeys(usable))


def clean(concept: str) -> str:
    """A concept as a vocabulary holds it: lower case, one space between words, without article, quotes and end marks.

    Empty if no letter is left.

    >>> clean(' "The  Zebra_Stripes". ')
    'zebra stripes'
    """
    text = unicodedata.normalize("NFC", concept).replace("_", " ").replace("’", "'").lower()
    text = " ".join("".join(c if c.isprintable() or c.isspace() else "" for c in text).split())
    text = text.strip(" \"'`“”‘*-–—•.,;:!?()[]{}<>")
    text = re.sub(r"\A(?:an?|the)\s+", "", text)
    return text if any(c.isalpha() for c in text) else ""


# --- which images to show ---


@dataclass(frozen=True, slots=True)
class Shown:
    """Images of one neuron that a model sees, as rows of the run's images, in order of rank."""

    positives: list[int]
    contrasts: list[int]


def choose(positives: Sequence[int], contrasts: Sequence[int], count: int, same: Callable[[int, int], bool]) -> Shown:
    """The first `count` positives and contrasts that are not near-copies of one shown already.

    Pairs are walked in order of rank; a positive that `same` says is a near-copy of one shown before is skipped,
    and so is a contrast, each on its own side. -1 stands for no image.
    """

    def side(images: Sequence[int]) -> list[int]:
        kept: list[int] = []
        for image in images:
            if image >= 0 and not any(image == other or same(image, other) for other in kept):
                kept.append(image)
                if len(kept) == count:
                    break
        return kept

    return Shown(side(positives), side(contrasts))


def near_copies(
    fingerprints: Sequence[str], embeddings: NDArray[np.float32] | None, alike: float
) -> Callable[[int, int], bool]:
    """Whether two images are the same content or, where unit rows (I,D) are given, have a cosine of at least
    `alike`."""

    def same(a: int, b: int) -> bool:
        if fingerprints[a] == fingerprints[b]:
            return True
        return embeddings is not None and float(embeddings[a] @ embeddings[b]) >= alike

    return same
