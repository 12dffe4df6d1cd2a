"""A linear head that an audit fitted on the neurons it did not call spurious. Needs no torch.

RUN/audit/head.safetensors holds weight (C,N) float32, 0 for every neuron left out, bias (C) float32 and keep (N)
uint8, 1 for the neurons that it uses; its metadata are format, classes (a JSON list of C names), target, layer, pooling
and fingerprint of the network. Scores of an image are weight a + bias, with a (N) the layer's activations pooled as the
run pools them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from contralens.errors import InputError
from contralens.types import Brief

FORMAT = "contralens head 1"


@dataclass(frozen=True, eq=False, repr=False)
class NewHead(Brief):
    """Class scores from the pooled activations of a layer.

    >>> head = NewHead(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.zeros(2), np.array([1, 0]), ("a", "b"))
    >>> [head.classes[c] for c in head([[3.0, 9.0], [-3.0, 9.0]]).argmax(1)]
    ['a', 'b']
    >>> head.save("head.safetensors")
    >>> load_head("head.safetensors").keep.tolist()
    [1, 0]
    """

    weight: NDArray[np.float32]
    """(C,N), 0 for the neurons left out."""
    bias: NDArray[np.float32]
    """(C)."""
    keep: NDArray[np.uint8]
    """(N) 1 for the neurons that it uses."""
    classes: tuple[str, ...]
    """(C) names."""
    about: Mapping[str, str] = field(default_factory=dict)
    """Name, layer, pooling and fingerprint of the network that it belongs to."""

    def __call__(self, rows: ArrayLike) -> NDArray[np.float32]:
        """Class scores (B,C) of pooled activations (B,N), before softmax.

        Raises:
            InputError: rows of another width.
        """
        given = np.asarray(rows, np.float32)
        if given.ndim != 2 or given.shape[1] != self.weight.shape[1]:
            raise InputError(f"the head takes rows of {self.weight.shape[1]} neurons; got shape {given.shape}")
        return given @ self.weight.T + self.bias

    def save(self, file: str | Path) -> None:
        """Write it as safetensors."""
        tensors = {
            "weight": np.ascontiguousarray(self.weight, np.float32), "bias": np.asarray(self.bias, np.float32),
            "keep": np.asarray(self.keep, np.uint8),
        }  # fmt: skip
        about = {**self.about, "format": FORMAT, "classes": json.dumps(list(self.classes))}
        save_file(tensors, file, {key: str(value) for key, value in about.items()})


def load_head(file: str | Path) -> NewHead:
    """The head in a head.safetensors.

    Raises:
        InputError: there is none, or the file is not a head.

    >>> NewHead(np.ones((2, 3)), np.zeros(2), np.ones(3), ("a", "b")).save("head.safetensors")
    >>> load_head("head.safetensors").classes
    ('a', 'b')
    """
    try:
        with safe_open(file, "np") as f:
            about = dict(f.metadata() or {})
            classes = tuple(str(name) for name in json.loads(about.pop("classes")))
            about.pop("format", None)
            return NewHead(f.get_tensor("weight"), f.get_tensor("bias"), f.get_tensor("keep"), classes, about)
    except FileNotFoundError:
        raise InputError(f"no head {file}; make one with: contralens audit RUN --concepts LIST --new-head") from None
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as e:
        raise InputError(f"{file} is not a head (a safetensors file that holds weight, bias and keep): {e}") from e
