"""What is handed to others loses the folders of this machine: absolute paths in texts, and in the names of images."""

from __future__ import annotations

import os
import re
from typing import Any

_FOLDERS = re.compile(r"(?<![\w/.])(?:~|[A-Za-z]:)?[\\/](?:[^\\/\s:@]+[\\/])+")


def anonymous(value: Any) -> Any:
    """The same without the folders of absolute paths, which tell more about a machine and its user than about a run.

    >>> anonymous({"name": "/home/ada/photos/cats", "spec": "module:/home/ada/net.py:make", "url": "http://host/v1/x"})
    {'name': 'cats', 'spec': 'module:net.py:make', 'url': 'http://host/v1/x'}
    """
    if isinstance(value, dict):
        return {key: anonymous(v) for key, v in value.items()}
    if isinstance(value, list):
        return [anonymous(v) for v in value]
    return _FOLDERS.sub("", value) if isinstance(value, str) else value


def relative(ids: list[str]) -> list[str]:
    """Names of images without the folder that all absolute ones share.

    >>> relative(["/home/ada/photos/cats/1.jpg", "/home/ada/photos/dogs/1.jpg"])
    ['cats/1.jpg', 'dogs/1.jpg']
    """
    absolute = [i for i in ids if os.path.isabs(i)]
    if not absolute:
        return ids
    shared = os.path.commonpath([os.path.dirname(i) for i in absolute])
    return [os.path.relpath(i, shared) if os.path.isabs(i) else i for i in ids]
