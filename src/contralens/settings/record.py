"""A job's settings as one record, from which flags, keys of files, keyword arguments and their documentation come.

A setting is declared once, as a field of its job's record:

    k: int = setting(30, WHOLE, "Exemplars per neuron.", flag="-k")

Its name is the keyword in Python and the key in YAML files and recipes, and the flag unless another one is given. None
is allowed where it is the default, and stands for what was not given.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, TypeVar

from contralens.checks import nearest
from contralens.errors import InputError, KindError
from contralens.settings.kinds import ANY_WHOLE, DEVICE, PATH, PROCESSES, PYTHON, WHOLE, Kind
from contralens.types import Progress, silent

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")
D = TypeVar("D")
T = TypeVar("T", bound="Settings")
ARGS, MORE = " " * 8, " " * 12
"""How the arguments of a docstring are indented, and their further lines."""


@dataclass(frozen=True)
class Setting:
    """What is known of a setting besides its name, type and default."""

    kind: Kind
    help: str
    python: str = ""
    """What else may be given in Python."""
    flag: str = ""
    """Its flag, where that is not called like the setting; or a short one ("-k") beside that."""
    reads: bool = False
    """Whether it may name files or folders that are read."""
    result: bool = True
    """Whether the result depends on it."""
    written: bool = False
    """Whether the manifest of the result holds it under its name."""


def about(kind: Kind, help: str, **more: Any) -> dict[str, Setting]:
    """Metadata of a field that has no default."""
    return {"setting": Setting(kind, help, **more)}


def setting(default: D, kind: Kind, help: str, **more: Any) -> D:
    """A field with its default; `more` are those of `Setting`."""
    return field(default=default, metadata=about(kind, help, **more))


@dataclass(frozen=True)
class Settings:
    """The settings of a job; each is checked when the record is made.

    Raises:
        InputError: one line that names the setting.
    """

    def __post_init__(self) -> None:
        for name, setting in settings_of(type(self)).items():
            value = getattr(self, name)
            if value is not None or default_of(type(self), name) is not None:
                object.__setattr__(self, name, setting.kind.check(name, value))

    def to(self, record: type[T], **changes: Any) -> T:
        """The same as another record, of an earlier or later stage, with some settings changed.

        >>> from contralens.settings.label import Mine, Score
        >>> Mine("world:1", "images", "world", k=5).to(Score, vocabulary=["red", "striped"], top=3).k
        5
        """
        known(record, changes, record.__name__)
        kind = type(self) if isinstance(self, record) else record
        own = {f.name: getattr(self, f.name) for f in fields(kind) if hasattr(self, f.name)}
        return kind(**{**own, **changes})

    def written(self) -> dict[str, Any]:
        """What the manifest holds of the settings."""
        return {name: getattr(self, name) for name, one in settings_of(type(self)).items() if one.written}

    def given(self, *names: str) -> dict[str, Any]:
        """Those among `names` that differ from their defaults."""
        every = {name: getattr(self, name) for name in names}
        return {name: value for name, value in every.items() if value != default_of(type(self), name)}


def settings_of(record: Any) -> dict[str, Setting]:
    """The settings of a record by name, in order."""
    return _declared(record)


@functools.cache
def _declared(record: Any) -> dict[str, Setting]:
    common = {name for kind in record.__mro__ if vars(kind).get("COMMON") for name in vars(kind)["__annotations__"]}
    return {f.name: f.metadata["setting"] for f in sorted(fields(record), key=lambda f: f.name in common)}


def default_of(record: Any, name: str) -> Any:
    """The default of a setting; `MISSING` where one must be given."""
    return record.__dataclass_fields__[name].default


def flag_of(name: str, setting: Setting) -> str:
    """The long flag of a setting, without its dashes: how files may call it as well."""
    own = setting.flag.partition("/")[0]
    return own.removeprefix("--") if own.startswith("--") else name.replace("_", "-")


def keys(record: type[Settings]) -> dict[str, str]:
    """How files call the settings (by name, or like the flag) -> the name."""
    every = {n: s for n, s in settings_of(record).items() if s.kind is not PYTHON}
    return {**{flag_of(n, s).replace("-", "_"): n for n, s in every.items()}, **{n: n for n in every}}


def known(record: type[Settings], given: Mapping[str, Any], what: str) -> None:
    """Refuse names that the record has not; `what` begins the error."""
    names = settings_of(record)
    for name in given:
        if name not in names:
            raise KindError(f"`{what}` takes no `{name}`{nearest(name, names)} (known: {', '.join(sorted(names))})")


def read(
    record: type[Settings], given: Mapping[str, Any], where: str = "", beside: Path | None = None
) -> dict[str, Any]:
    """Settings as flags or a file say them -> keyword arguments, checked; null stands for what is not given.

    Args:
        record: of the job.
        given: what they are called -> what they are.
        where: begins an error.
        beside: a folder in which relative paths are looked for first.

    Raises:
        InputError: an unknown key, or a value that its setting does not take.

    >>> from contralens.settings.label import Label
    >>> read(Label, {"k": "5", "scorer": ["csp"], "batch-size": None, "neurons": "1,4-6"})
    {'k': 5, 'scorers': ['csp'], 'neurons': [1, 4, 5, 6]}
    """
    names = keys(record)
    out = {}
    for key, value in given.items():
        name = names.get(str(key).replace("-", "_"))
        if name is None:
            called = ", ".join(dict.fromkeys(names.values()))
            raise InputError(f"{where}unknown setting {str(key)!r}{nearest(str(key), names)} (known: {called})")
        if value is None:
            continue
        kind = settings_of(record)[name].kind
        try:
            value = kind.check(name, kind.read(name, value))
        except InputError as e:
            raise InputError(f"{where}{e}") from None
        out[name] = value if beside is None or kind.beside is None else kind.beside(beside, value)
    return out


def job(record: Callable[P, S]) -> Callable[[Callable[[S], R]], Callable[P, R]]:
    """Makes a function of a record one of the record's fields, as arguments with types, defaults and documentation.

    >>> from contralens.settings.label import Mine
    >>> @job(Mine)
    ... def exemplars_per_neuron(settings: Mine) -> int:
    ...     '''Says how many.'''
    ...     return settings.k
    >>> exemplars_per_neuron("world:1", "world-1/images", "world", k=5)
    5
    >>> exemplars_per_neuron("world:1", "world-1/images", "world", k="ten")
    Traceback (most recent call last):
        ...
    contralens.errors.InputError: `k` must be a whole number; got 'ten'
    """
    kind: Any = record

    def around(work: Callable[[S], R]) -> Callable[P, R]:
        @functools.wraps(work)
        def inner(*args: P.args, **kwargs: P.kwargs) -> R:
            known(kind, kwargs, work.__name__)
            if missing := [name for name in needed[len(args) :] if name not in kwargs]:
                raise KindError(f"`{work.__name__}` needs {' and '.join(f'`{name}`' for name in missing)}")
            try:
                shape.bind(*args, **kwargs)
            except TypeError as e:
                raise KindError(f"`{work.__name__}`: {e}") from None
            return work(record(*args, **kwargs))

        shape = inspect.signature(kind)
        needed = [name for name, one in shape.parameters.items() if one.default is one.empty]
        returns = inspect.signature(work).return_annotation
        inner.__signature__ = shape.replace(return_annotation=returns)  # type: ignore[attr-defined]
        inner.__doc__ = documented(work.__doc__ or "", kind)
        return inner

    return around


def documented(text: str, record: type[Settings]) -> str:
    """A docstring with the record's settings as its arguments, after the first paragraphs."""
    said = [f"{name}: {setting.help} {setting.python}" for name, setting in settings_of(record).items()]
    lines = [line for one in said for line in textwrap.wrap(one, 112, initial_indent=ARGS, subsequent_indent=MORE)]
    body, rest = text, ""
    for section in ("\n    Returns:", "\n    Raises:", "\n    >>>"):
        if section in text:
            at = text.index(section)
            body, rest = text[:at].rstrip(), text[at:]
            break
    return "\n".join([body.rstrip(), "", "    Args:", *lines, rest])


def help_of(record: type[Settings], name: str) -> str:
    """The help of a setting with its default, where that is a value that says something."""
    setting, default = settings_of(record)[name], default_of(record, name)
    if default in (None, MISSING, "") or isinstance(default, (bool, tuple)) or "(default" in setting.help:
        return setting.help
    return f"{setting.help.removesuffix('.')} (default {default})."


@dataclass(frozen=True, kw_only=True)
class Where(Settings):
    """Where a job runs and keeps what it computed."""

    COMMON: ClassVar[bool] = True
    """Whether the settings of just this class are listed last."""
    device: str | None = setting(None, DEVICE,
        "Device for the networks, on CUDA also for mining and scoring: cpu (default, or your module's "
        "device), cuda, cuda:1, mps.", result=False)  # fmt: skip
    cache: str | Path | None = setting(None, PATH,
        "Cache folder (default: $CONTRALENS_CACHE or ~/.cache/contralens).", result=False)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Place(Where):
    """Where the work of any job is done, whatever it is."""

    COMMON: ClassVar[bool] = True
    progress: Progress = setting(silent, PYTHON, "Called with stage, done and total.", result=False)


@dataclass(frozen=True, kw_only=True)
class Work(Place):
    """How the work of any job that runs networks over images is done."""

    COMMON: ClassVar[bool] = True
    seed: int = setting(0, ANY_WHOLE, "Random seed.", written=True)
    batch_size: int = setting(32, WHOLE, "Images per forward pass.", result=False)
    workers: int | None = setting(None, WHOLE, "Threads that decode images (default: one per core).", result=False)
    processes: int = setting(0, PROCESSES,
        "Decode images in this many processes instead of threads; faster where many cores feed a GPU. "
        "Same results.", result=False)  # fmt: skip
