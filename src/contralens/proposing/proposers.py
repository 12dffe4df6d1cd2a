"""Proposers: models that see pictures of a neuron and name candidate labels, made by `proposer("scheme:model")`.

`PROPOSERS` maps a scheme to what loads it; packages add to it with an entry point in the group "contralens.proposers"
whose name is the scheme and whose object is a function `(rest: str, options) -> Proposer`. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from contralens.errors import ContralensError, InputError
from contralens.plugs import Registry, Scheme

__all__ = ["PROPOSERS", "CaptionBank", "Proposer", "ProposerError", "Reply", "Request", "proposer"]


@dataclass(frozen=True, slots=True)
class Request:
    """One question: what the user turn holds, and the rules for the answer.

    >>> asked = Request(parts=("Name what you see.", b"(a JPEG file)"), schema={"type": "object"}, key="q1")
    >>> asked.repair("Stripes!", "it is not JSON").bad
    ('Stripes!', 'it is not JSON')
    """

    parts: tuple[str | bytes, ...]
    """Texts and pictures (JPEG files), in the order in which they are read."""
    schema: Mapping[str, Any]
    """JSON schema of the answer, for whoever honours it."""
    max_tokens: int = 256
    """Most tokens of the answer."""
    key: str = ""
    """What identifies the question; sent as Idempotency-Key, so that a server which knows it bills a repeat once."""
    bad: tuple[str, str] | None = None
    """An earlier answer that broke the rules, and what to say about it: the repair."""

    def repair(self, answer: str, complaint: str) -> Request:
        """The same question again, with the bad answer and what was wrong with it."""
        return replace(self, bad=(answer[:2000], complaint), key=f"{self.key}-repair")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered; not yet checked.

    >>> Reply('{"concepts": ["stripes"]}', input_tokens=900, output_tokens=12).text
    '{"concepts": ["stripes"]}'
    """

    text: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    model: str = ""
    """As the server names it."""


class ProposerError(ContralensError):
    """No answer to one question: one line that says why. It is asked again in the next run.

    `fatal`: every other question would fail too (wrong key, unknown model), so asking stops.
    `charged`: a server may have done, and charged for, the work all the same (a timeout, an answer that broke off).

    >>> error = ProposerError("401: the key is wrong", fatal=True)
    >>> str(error), error.fatal, error.charged
    ('401: the key is wrong', True, False)
    """

    def __init__(self, message: str, fatal: bool = False, charged: bool = False) -> None:
        super().__init__(" ".join(message.split())[:500])
        self.fatal, self.charged = fatal, charged


@runtime_checkable
class Proposer(Protocol):
    """What answers questions about pictures.

    >>> class Stripes:
    ...     name, fingerprint, batch, workers = "stripes", "stripes-1", 4, 1
    ...     def ask(self, requests):
    ...         return [Reply('{"concepts": ["stripes"]}') for _ in requests]
    >>> isinstance(Stripes(), Proposer)
    True
    """

    name: str
    """As the user wrote it; holds no secret."""
    fingerprint: str
    """What a reply depends on besides the question: the model and the options of its answering."""
    batch: int
    """Questions that one call answers together."""
    workers: int
    """Calls in progress at once."""

    def ask(self, requests: Sequence[Request]) -> list[Reply | ProposerError]:
        """One answer or error per question, in order. Called from several threads if `workers` > 1."""
        ...


@dataclass(frozen=True, slots=True)
class CaptionBank:
    """No model at all: captions that the encoder ranks (FALCON for neurons); `contralens.propose` does the work.

    >>> CaptionBank("metadata").name
    'captions:metadata'
    """

    source: str
    """A text or table file, a built-in vocabulary, or "metadata": the class names of the image set itself."""

    @property
    def name(self) -> str:
        """As the user wrote it."""
        return f"captions:{self.source}"


_BUILT_IN = {
    "hf": Scheme(
        "contralens.proposing.hf_proposer:load",
        "hf:ORG/NAME or hf:FOLDER",
        "a local vision-language model through transformers (AutoModelForImageTextToText)",
    ),
    "openai": Scheme(
        "contralens.proposing.openai_proposer:load",
        "openai:MODEL@URL or openai:MODEL",
        "any server with OpenAI's chat completions: vLLM, Ollama, llama.cpp, transformers serve, hosted ones",
    ),
    "captions": Scheme(
        "contralens.proposing.proposers:captions",
        "captions:FILE, captions:VOCABULARY or captions:metadata",
        "no model: captions ranked by the encoder, words that occur on positives but not on contrasts (FALCON)",
    ),
}


PROPOSERS: Registry[Callable[..., Any]] = Registry("proposers", _BUILT_IN, one="proposer", takes=("rest",), mark="")
"""Loaders by scheme: functions `(rest, options) -> Proposer`."""


def captions(rest: str) -> CaptionBank:
    """The loader of "captions:"."""
    if not rest:
        raise InputError("captions: needs a file with one caption a line, a built-in vocabulary's name, or metadata")
    return CaptionBank(rest)


def proposer(
    spec: str | Proposer | CaptionBank, *, device: str | None = None, **options: Any
) -> Proposer | CaptionBank:
    """The proposer that `spec` names, or `spec` itself where it is one already.

    Args:
        spec: e.g. "hf:HuggingFaceTB/SmolVLM-500M-Instruct", "openai:qwen2.5-vl@http://localhost:8000/v1",
            "captions:captions.txt", or any object with the members of `Proposer`.
        device: where a model on this machine runs, e.g. "cuda"; a server does not care.
        options: of the backend, e.g. `workers`, `timeout`, `retries` (openai), `batch`, `dtype` (hf).

    Raises:
        InputError: unknown scheme or option, a key that is missing.
        MissingPackage: a package is not installed.

    >>> proposer("captions:captions.txt").name
    'captions:captions.txt'
    """
    if isinstance(spec, str):
        if device is not None and "device" in PROPOSERS.options(PROPOSERS.parse(spec)[0]):
            options["device"] = device
        made = PROPOSERS.make(spec, **options)
    else:
        made = spec
    if isinstance(made, Proposer | CaptionBank):
        return made
    lacks = [m for m in ("name", "fingerprint", "batch", "workers", "ask") if not hasattr(made, m)]
    raise InputError(
        f"`proposer` must be a name such as 'openai:MODEL@URL' or a Proposer; got {type(made).__name__}, "
        f"which is missing {', '.join(lacks)}"
    )
