"""Registries: one dictionary for each kind of plug, of what is built in and of what is added, all with one contract.

A plug is a function; it is named "name", "name:option=value" or "scheme:rest", or as FILE.py:NAME where it is in a
file of the user's. `Registry.make` reads such a text. A package adds to the kind "scorers" with an entry point in the
group "contralens.scorers", and so for every kind. Entry points are listed when a name is not built in, and imported
when their name is used. A built-in name cannot be taken over.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast, get_type_hints

from contralens.checks import blaming, nearest, shown
from contralens.errors import ContralensError, InputError, MissingPackage
from contralens.specs import Kind, kind_of, option, options, scheme, tail
from contralens.user_code import code_named

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
ANY = "..."
"""In place of an option's name: whatever else is given (a plug that takes **options)."""


def _imported(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (Exception, SystemExit) as e:
        lines = str(e).strip().splitlines() or [type(e).__name__]
        raise _broken(e)(f"the plug-in {point.value} of {point.group} cannot be imported: {lines[0][:200]}") from e


def _broken(error: BaseException) -> type[ContralensError]:
    return MissingPackage if isinstance(error, ModuleNotFoundError) else InputError


class Registry(MutableMapping[str, T], Generic[T]):
    """The plugs of one kind by name; add your own for this process like a dictionary item or with a decorator.

    Args:
        kind: name of the kind, plural; packages add to the entry point group "contralens.KIND".
        built_in: the plugs of contralens: functions, records with a `function`, or a `Scheme`.
        one: the kind in the singular, for errors.
        takes: arguments that every plug of the kind takes in this order, besides its options. If the first is "rest",
            a plug is named "scheme:rest".
        by_name: keyword arguments that are not options.
        mark: separator between a plug's name and its options; "" if options cannot be part of the name.
        read: converts an added item to the stored value, for kinds with records.

    >>> calls = Registry("calls", {"hey": str.upper}, one="call", takes=("text",))
    >>> @calls.add
    ... def again(text, times: int = 2):
    ...     "Say it again."
    ...     return text * times
    >>> list(calls), calls.about("again"), calls["again"]("ha"), calls.make("again:times=3")("ha")
    (['hey', 'again'], 'Say it again.', 'haha', 'hahaha')
    >>> calls.form("again"), calls.names("agan"), calls.parse("again:times=3"), "hey" in calls.here()
    ('again', False, ('again', '', {'times': 3}), True)
    >>> calls.options("again")["times"].about
    'a whole number'
    >>> calls.make("again:tmes=3")
    Traceback (most recent call last):
        ...
    contralens.errors.InputError: call 'again' has no option 'tmes'; did you mean times?
    """

    def __init__(
        self, kind: str, built_in: Mapping[str, Any] | None = None, *, one: str, takes: tuple[str, ...] = (),
        by_name: tuple[str, ...] = (), mark: str = ":", read: Callable[[Any], T] = lambda value: cast(T, value),
    ) -> None:  # fmt: skip
        self.kind, self.one, self.takes, self.by_name, self.mark = kind, one, takes, by_name, mark
        self.built_in = frozenset(built_in or ())
        self._read = read
        self._known: dict[str, Any] = dict(built_in or {})
        self._loaded: dict[EntryPoint, T] = {}
        self._listed = False

    @property
    def _schemes(self) -> bool:
        return self.takes[:1] == ("rest",)

    def _list(self) -> dict[str, Any]:
        if not self._listed:
            for point in entry_points(group=f"contralens.{self.kind}"):
                self._known.setdefault(point.name, point)
            self._listed = True
        return self._known

    def __getitem__(self, name: str) -> T:
        known = self._known if name in self._known else self._list()
        if name not in known and (code := code_named(name)) and not code.rest:
            return self._read(code.load(f"{self.one} {name}"))
        value = known[name]
        if not isinstance(value, EntryPoint):
            return cast(T, value)
        if value not in self._loaded:
            self._loaded[value] = self._read(_imported(value))
        return self._loaded[value]

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in self._list()

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._list()))

    def __len__(self) -> int:
        return len(self._list())

    def __setitem__(self, name: str, value: Any) -> None:
        self._known[name] = self._read(value)

    def __delitem__(self, name: str) -> None:
        del self._known[name]

    def add(self, function: F) -> F:
        """Add a function under its own name: `@registry.add` above it."""
        self[function.__name__] = function
        return function

    def here(self) -> dict[str, T]:
        """What is known without importing a package's plug-in."""
        return {name: value for name, value in self._list().items() if not isinstance(value, EntryPoint)}

    def form(self, name: str) -> str:
        """How a user writes a name; imports no plug-in for it."""
        return getattr(self._list()[name], "form", f"{name}:..." if self._schemes else name)

    def about(self, name: str) -> str:
        """One line on what is behind a name, which may have options; imports no plug-in of a package for it.

        >>> Registry("calls", {"hey": str.upper}, one="call").about("hey")
        'Return a copy of the string converted to uppercase.'
        """
        value = self._list().get(self._split(name)[0]) or self[self._split(name)[0]]
        if isinstance(value, EntryPoint):
            return f"from the package {value.dist.name}" if value.dist else "from an installed package"
        text = getattr(value, "about", None) or inspect.getdoc(value) or name
        return " ".join(text.split("\n\n")[0].split())

    def options(self, name: str) -> dict[str, Kind]:
        """The options of a plug, each of the kind that its annotation or its default says."""
        value: Any = self[name]
        function = getattr(value, "function", value)
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # some functions of C
            return {}
        try:
            hints = get_type_hints(function)
        except Exception:  # annotations of a plug that mean nothing here
            hints = {}
        takes = getattr(value, "needs", self.takes)
        own = [p for p in parameters[len(takes) :] if p.kind is not p.VAR_POSITIONAL]
        named = [(ANY if p.kind is p.VAR_KEYWORD else p.name, p) for p in own if p.name not in self.by_name]
        return {name: kind_of(hints.get(p.name), p.default) for name, p in named}

    def names(self, spec: str) -> bool:
        """Whether a text names a plug: one that is known, or code of the user's."""
        return self._split(spec)[0] in self or code_named(spec) is not None

    def parse(self, spec: str) -> tuple[str, str, dict[str, Any]]:
        """The name of a plug, what comes after the colon of "scheme:rest", and the options, each of its kind.

        Raises:
            InputError: an unknown name or option, an option that is given twice or is not of its kind.
            MissingPackage: what a plug-in imports is not installed.
        """
        name, rest, text = self._split(spec)
        if name not in self and code_named(name) is None:
            raise InputError(
                f"unknown {self.one} {shown(name)}{nearest(name, self)}; known: {'; '.join(map(self.form, self))}; or "
                "your own as FILE.py:NAME"
            )
        return name, rest, options(text, self.options(name), f"{self.one} {name!r}")

    def _split(self, spec: str) -> tuple[str, str, str]:
        text, given = tail(spec.strip(), self.mark) if self.mark and self._schemes else (spec.strip(), "")
        name, rest = scheme(text)
        if name not in self and (code := code_named(text)):
            name, rest = code.spec, code.rest.removeprefix(":").strip()
        return (name, rest, given) if self._schemes else (name, "", rest)

    def make(self, spec: str, *args: Any, **more: Any) -> Any:
        """What a text stands for, with its options: what the plug makes of the rest of its name, or the plug itself.

        Args:
            spec: "scheme:rest", "name:option=value" or FILE.py:NAME in place of the name.
            args: for kinds named "scheme:rest", what their plugs take after the rest.
            more: further options, and arguments by keyword.

        Raises:
            InputError: as `parse` does; the user's own code fails.
            MissingPackage: what a plug-in imports is not installed.
        """
        name, rest, given = self.parse(spec)
        value: Any = self[name]
        given |= self._checked(name, more)
        if self.takes and not self._schemes:
            bound = partial(getattr(value, "function", value), **given) if given else value
            return replace(value, function=bound) if given and hasattr(value, "function") else bound
        own = code_named(name) and name not in self
        with blaming(f"{self.one} {spec}: calling {name.rpartition(':')[2]} failed") if own else nullcontext():
            return value(*((rest,) if self._schemes else ()), *args, **given)

    def _checked(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Options that are given as values; texts are read as in a name."""
        kinds, what = self.options(name) if given else {}, f"{self.one} {name!r}"
        read = {key: value for key, value in given.items() if key in self.by_name or ANY in kinds}
        for key in given.keys() - read.keys():
            as_it_is = key in kinds and not isinstance(given[key], str)
            read[key] = given[key] if as_it_is else option(key, given[key], kinds, what)
        return read


@dataclass(frozen=True, slots=True)
class Scheme:
    """A plug that is imported when it is first called, so that a list of them costs nothing.

    >>> Scheme("json:loads", "json:TEXT", "reads JSON")("[1]")
    [1]
    """

    where: str
    """"module:function"; imported when it is first used."""
    form: str
    """How a user writes it."""
    about: str
    """One line for lists and docs."""

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself.

        >>> Scheme("json:loads", "json:TEXT", "reads JSON").function("[1]")
        [1]

        Raises:
            MissingPackage: what it imports is not installed.
            InputError: it cannot be imported.
        """
        module, _, function = self.where.partition(":")
        try:
            return cast(Callable[..., Any], getattr(importlib.import_module(module), function))
        except (ImportError, AttributeError, SystemExit) as e:
            raise _broken(e)(f"the plug-in {self.where} cannot be imported: {e}") from e

    def loader(self) -> Callable[..., Any]:
        """The same as `function`.

        >>> Scheme("json:loads", "json:TEXT", "reads JSON").loader()("[1]")
        [1]
        """
        return self.function

    def __call__(self, *args: Any, **options: Any) -> Any:
        """What the function makes."""
        return self.function(*args, **options)
