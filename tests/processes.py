"""Real processes without the seconds of importing: each is a fork of a server that has imported what most of them need.

They have their own environment, folder, streams and exit code, and can be killed like any other. What depends on a
fresh interpreter (what is imported when, the command on the path) starts one by `subprocess` instead.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from patience import HUNG

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["preloaded"])


def _running() -> None:
    """Start the server, once; by PYTHONPATH, since some versions of Python do not pass it their own path."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


class Started:
    """`work(*arguments)` in a process of its own, with the part of `subprocess.Popen` that tests use.

    Work and arguments have to be importable or picklable.
    """

    def __init__(
        self, work: Callable[..., object], *arguments: Any, env: Mapping[str, str] | None = None, cwd: Any = None
    ) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.out, self.err = (Path(self.folder.name, name) for name in ("out", "err"))
        for file in (self.out, self.err):
            file.touch()
        _running()
        given = (work, arguments, dict(os.environ if env is None else env), os.fspath(cwd or Path.cwd()))
        self.process: BaseProcess = SERVER.Process(target=_live, args=(str(self.out), str(self.err), *given))
        self.process.start()

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    @property
    def returncode(self) -> int | None:
        """As `subprocess` gives it: minus the signal that ended it, None while it lives."""
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.process.is_alive():
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = HUNG) -> int:
        self.process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired(str(self.process), timeout)
        return self.returncode

    def communicate(self, timeout: float = HUNG) -> tuple[str, str]:
        self.wait(timeout)
        return self.out.read_text(encoding="utf-8"), self.err.read_text(encoding="utf-8")


def _live(
    out: str, err: str, work: Callable[..., object], arguments: tuple[Any, ...], env: Mapping[str, str], cwd: str
) -> None:
    for number, file in ((1, out), (2, err)):
        opened = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    os.chdir(cwd)
    work(*arguments)


def command(*words: Any) -> None:
    """`contralens WORDS`."""
    sys.argv = ["contralens", *map(str, words)]
    importlib.import_module("contralens.cli").main()


def script(file: Any, *words: Any) -> None:
    """`python FILE WORDS`."""
    sys.argv = [str(file), *map(str, words)]
    sys.path.insert(0, str(Path(file).parent))
    runpy.run_path(str(file), run_name="__main__")


def code(text: str, *words: Any) -> None:
    """`python -c TEXT WORDS`."""
    sys.argv = ["-c", *map(str, words)]
    exec(compile(text, "<code>", "exec"), {"__name__": "__main__"})


def run(
    work: Callable[..., object], *arguments: Any, env: Mapping[str, str] | None = None, cwd: Any = None
) -> subprocess.CompletedProcess[str]:
    """`Started` to its end."""
    process = Started(work, *arguments, env=env, cwd=cwd)
    out, err = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode or 0, out, err)
