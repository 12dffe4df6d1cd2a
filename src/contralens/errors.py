"""Everything that contralens raises on purpose. Each error is one line: what is wrong, where, and what to do next.

    ContralensError             catch this for all of them; the command line prints its line and exits with code 2
    ├── InputError              an argument, or a file that it names, is wrong; also a ValueError
    │   └── KindError           an argument of a type that cannot be used; also a TypeError
    ├── ImageError              one image cannot be decoded
    ├── StoreError              the disk: the cache is damaged, a file cannot be written, another process holds it
    │   ├── Damaged             one file of the cache is not as it was written (contralens.data.sealed_tensors)
    │   └── RunError            a run folder, or a part of one, is damaged, incomplete or of another version
    ├── MissingPackage          an optional package is not installed
    ├── ModelUnavailable        the weights of a network, encoder, painter or proposer cannot be loaded
    └── ProposerError           a proposer has no answer to one question (contralens.proposing.proposers)

Whoever catches one of these names the class that is meant, so that a damaged cache is never taken for a wrong argument.
"""

from __future__ import annotations


class ContralensError(Exception):
    """Base of every error that contralens raises on purpose.

    >>> import contralens
    >>> try:
    ...     contralens.load("nowhere")
    ... except ContralensError as e:
    ...     print(type(e).__name__)
    InputError
    """


class InputError(ContralensError, ValueError):
    """An argument, or a file that it names, is invalid. Change it as the message says.

    >>> import contralens
    >>> try:
    ...     contralens.load("nowhere")
    ... except InputError as e:
    ...     print(e)
    nowhere is not a whole run folder: manifest.json is missing
    """


class KindError(InputError, TypeError):
    """An argument has a type that cannot be used, such as a number in place of a path. What to do: pass the type that
    the line names.

    >>> import contralens
    >>> try:
    ...     contralens.images(5)
    ... except KindError as e:
    ...     print(e)
    `images` must be a folder, a list of files, a map-style data set or an Images; got int
    """


class ImageError(ContralensError):
    """One image cannot be decoded. A run counts, lists and skips it. To fix it, replace the file or install the decoder
    that the message names; you may also ignore it.

    >>> import contralens
    >>> from pathlib import Path
    >>> Path("broken").mkdir()
    >>> _ = Path("broken/half.png").write_bytes(b"no picture")
    >>> try:
    ...     contralens.images("broken").load(0)
    ... except ImageError as e:
    ...     print("half.png" in str(e))
    True
    """


class StoreError(ContralensError):
    """A file of the cache is damaged, the disk is full, a folder cannot be written, another process holds it, or the
    Hub cannot be reached. Free space, choose another folder or wait, then run the same command again. It resumes and
    recomputes damaged parts of the cache.

    >>> from pathlib import Path
    >>> from contralens.data.atomic_files import write_whole
    >>> Path("rows").mkdir()
    >>> try:
    ...     write_whole(Path("rows"), b"numbers")
    ... except StoreError as e:
    ...     print(Path(str(e)).as_posix())
    cannot write rows: a folder is in the way there; choose another name
    """


class RunError(StoreError):
    """A run folder, its audit, its evaluation or its candidates are damaged, edited or incomplete, or have a format
    that this version does not read. Run the command that wrote it again.

    >>> import contralens, shutil
    >>> from pathlib import Path
    >>> _ = shutil.copytree("run", "half")
    >>> Path("half/labels.parquet").unlink()
    >>> try:
    ...     contralens.load("half")
    ... except RunError as e:
    ...     print(e)
    half is not a whole run folder: labels.parquet is missing
    """


class MissingPackage(ContralensError):
    """An optional package, or the module of a plug-in, is not installed. Install it with the pip command of the
    message.

    >>> from contralens.checks import require
    >>> try:
    ...     require("no_such_package", "plots")
    ... except MissingPackage as e:
    ...     print(e)
    this needs the package no_such_package, which is not installed: pip install 'contralens[plots]'
    """


class ModelUnavailable(ContralensError):
    """A network, encoder, painter or proposer has a valid name, but its weights or files cannot be loaded: they are not
    cached and cannot be downloaded, they are missing in a folder, or they are damaged. Download them once with an
    internet connection, or give the folder or file that the message asks for.

    >>> import contralens
    >>> from pathlib import Path
    >>> Path("empty").mkdir()
    >>> try:
    ...     contralens.encoder("hf:empty")
    ... except ModelUnavailable as e:
    ...     print(str(e).partition(":")[0])
    hf
    """
