"""What a run's objects offer in a notebook: short names, pictures, tables of pandas, the explorer."""

from __future__ import annotations

import atexit
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from contralens.checks import nearest, require
from contralens.errors import InputError
from contralens.pages import fragment
from contralens.types import Brief

if TYPE_CHECKING:
    from pandas import DataFrame

    from contralens.data.runs import Run

START = 60.0
"""Seconds that the explorer gets to start."""


class Neuron(dict[str, Any]):
    """All about one neuron as a dictionary, that shows itself with pictures.

    >>> import contralens
    >>> neuron = contralens.load("run")["block3/5"]
    >>> neuron["name"], len(neuron["exemplars"]), "<img" in neuron._repr_html_()
    ('block3/5', 5, True)
    """

    def __init__(self, values: dict[str, Any], run: Run) -> None:
        super().__init__(values, exemplars=ExemplarRows(values["exemplars"], run))
        self._run = run

    def __repr__(self) -> str:
        label = self["labels"].get(self._run.manifest["primary"], {}).get("label")
        return f"Neuron({self['name']!r}: {label or 'no label'!r}, {len(self['exemplars'])} exemplars)"

    def _repr_html_(self) -> str:
        from contralens.data.views import neuron_view

        return neuron_view(self._run, self["neuron"])._repr_html_()

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)


class ExemplarRows(list[dict[str, Any]]):
    """A neuron's exemplars by rank, that show themselves above their contrasts.

    >>> import contralens
    >>> rows = contralens.load("run")["block3/5"]["exemplars"]
    >>> rows[0]["rank"], rows._repr_html_().count("<img") <= 2 * len(rows)
    (0, True)
    """

    def __init__(self, rows: list[dict[str, Any]], run: Run) -> None:
        super().__init__(rows)
        self._run = run

    def _repr_html_(self) -> str:
        from contralens.data.views import exemplars_view

        return exemplars_view(self._run, self)._repr_html_()


class Tabled(Brief):
    """A record of tables: `to_pandas` gives one of them."""

    __slots__ = ()

    def to_pandas(self, table: str | None = None) -> DataFrame:
        """One of the tables as a `pandas.DataFrame`.

        Args:
            table: its name; by default the first one.

        Raises:
            InputError: there is no such table.
            MissingPackage: no pandas (`pip install 'contralens[pandas]'`).
        """
        require("pandas", "pandas")
        tables = self._tables()
        name = table or next(iter(tables))
        if name not in tables:
            raise InputError(
                f"{type(self).__name__} has no table {name!r}{nearest(name, tables)} (it has: {', '.join(tables)})"
            )
        return tables[name].to_pandas()

    def _tables(self) -> dict[str, pa.Table]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}  # type: ignore[attr-defined]
        return {name: value for name, value in values.items() if isinstance(value, pa.Table)}


class Explorer:
    """The explorer, running in a process of its own until `stop` or until Python ends: see `Run.explore`.

    >>> explorer = Explorer(Path("run"), read_only=True)
    >>> "href" in explorer._repr_html_()
    True
    >>> explorer.stop()
    >>> explorer
    Explorer(stopped)
    """

    def __init__(self, run: Path, read_only: bool = False) -> None:
        words = ["explore", str(run), "--port", "0", "--no-browser", *(["--read-only"] if read_only else [])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "contralens", *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        if "http" not in line:
            said = self._process.stderr.read().strip().removeprefix("contralens: ")
            self.stop()
            raise InputError(f"the explorer did not start: {said or line.strip() or 'without a message'}")
        atexit.register(self.stop)
        self.address = line[line.index("http") :].split()[0]
        """Where a browser on this machine finds it."""

    def stop(self) -> None:
        """End the explorer."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(START)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def __repr__(self) -> str:
        return f"Explorer({self.address!r})" if self._process.poll() is None else "Explorer(stopped)"

    def _repr_html_(self) -> str:
        here = "It runs on this machine; from another one, forward the port or use `contralens export`."
        if self._process.poll() is not None:
            return fragment([{"kind": "line", "text": "The explorer was stopped.", "soft": False}])
        return fragment([{"kind": "link", "address": self.address}, {"kind": "line", "text": here, "soft": True}])
