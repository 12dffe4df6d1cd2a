"""Plugs: one dictionary per kind, of what is built in and of what installed packages add.

A package adds to the kind "scorers" with an entry point in the group "contralens.scorers"; so for encoders, targets,
proposers, painters, metrics and vocabularies. Entry points are listed when a name is not built in, and imported when
their name is used. A built-in name cannot be taken over.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from contralens.errors import ContralensError, InputError, MissingPackage

T = TypeVar("T")


def imported(point: EntryPoint) -> Any:
    """The object of an entry point.

    Raises:
        MissingPackage: what it imports is not installed.
        InputError: the package that names it cannot be imported, or lacks it.
    """
    try:
        return point.load()
    except (Exception, SystemExit) as e:
        lines = str(e).strip().splitlines() or [type(e).__name__]
        raise _broken(e)(f"the plug-in {point.value} of {point.group} cannot be imported: {lines[0][:200]}") from e


def _broken(error: BaseException) -> type[ContralensError]:
    return MissingPackage if isinstance(error, ModuleNotFoundError) else InputError


def origin(point: EntryPoint) -> str:
    """Where an entry point is from, for lists."""
    return f"from the package {point.dist.name}" if point.dist else "from an installed package"


class Plugs(MutableMapping[str, T], Generic[T]):
    """What is known of one kind, by name; add your own for this process as in any dictionary.

    >>> shouts = Plugs("shouts", {"hey": str.upper})
    >>> shouts["twice"] = lambda text: text + text
    >>> list(shouts), shouts["twice"]("ha")
    (['hey', 'twice'], 'haha')
    """

    def __init__(self, kind: str, built_in: Mapping[str, T], made: Callable[[EntryPoint], T] = imported) -> None:
        self.kind = kind
        self._known: dict[str, T | EntryPoint] = dict(built_in)
        self._made = made
        self._listed = False

    def _list(self) -> dict[str, T | EntryPoint]:
        if not self._listed:
            for point in entry_points(group=f"contralens.{self.kind}"):
                self._known.setdefault(point.name, point)
            self._listed = True
        return self._known

    def __getitem__(self, name: str) -> T:
        known = self._known if name in self._known else self._list()
        value = known[name]
        if isinstance(value, EntryPoint):
            value = known[name] = self._made(value)
        return value

    def about(self, name: str) -> str:
        """One line on what stands behind a name; imports no plug-in for it.

        >>> Plugs("shouts", {"hey": str.upper}).about("hey")
        'Return a copy of the string converted to uppercase.'
        """
        value = self._list()[name]
        if isinstance(value, EntryPoint):
            return origin(value)
        if isinstance(value, Scheme):
            return value.about
        return value if isinstance(value, str) else (value.__doc__ or name).strip().splitlines()[0]

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in self._list()

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._list()))

    def __len__(self) -> int:
        return len(self._list())

    def __setitem__(self, name: str, value: T) -> None:
        self._known[name] = value

    def __delitem__(self, name: str) -> None:
        del self._known[name]


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to name a model, "scheme:rest": what comes before the colon.

    >>> Scheme("json:loads", "json:TEXT", "reads JSON").loader()("[1]")
    [1]
    """

    where: str
    """"module:function" of the loader; imported when it is first used."""
    form: str
    """How a user writes it."""
    about: str
    """One line for lists and docs."""

    def loader(self) -> Any:
        """The function that loads what comes after the colon.

        Raises:
            MissingPackage: what it imports is not installed.
            InputError: it cannot be imported.
        """
        module, _, function = self.where.partition(":")
        try:
            return getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, SystemExit) as e:
            raise _broken(e)(f"the plug-in {self.where} cannot be imported: {e}") from e


def scheme_of(point: EntryPoint) -> Scheme:
    """The scheme that an entry point adds."""
    return Scheme(point.value.replace(" ", ""), f"{point.name}:...", origin(point))
