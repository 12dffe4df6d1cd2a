"""A user's own weights into a network: matched by name and shape, and what does not fit said or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from contralens.checks import some
from contralens.errors import InputError
from contralens.loading.matching import Fit, best_fit
from contralens.loading.weight_files import Tables, read_state, read_tables

__all__ = ["Filled", "Inferred", "load_checkpoint", "read_state"]

Build = Callable[..., nn.Module]
"""`build(classes, **arguments)` makes a network with that many classes (its default for None)."""
Adapt = Callable[[dict[str, Tensor], nn.Module], Mapping[str, Tensor]]
"""A library's own translation of older names: (tensors, network) -> tensors."""
_SAYS = ("arch", "model", "model_name", "architecture", "backbone", "encoder", "name", "num_classes", "in_chans",
         "in_channels", "num_channels", "img_size", "image_size", "patch_size")  # fmt: skip
CHOICE = "::"
"""Between a checkpoint's file and the part of it to take, "dino.pth::teacher"."""


@dataclass(frozen=True, slots=True)
class Inferred:
    """How a builder calls the arguments that can be read off a checkpoint's shapes; "" for one that it does not have.

    >>> Inferred(channels="in_chans").size
    ''
    """

    channels: str = ""
    size: str = ""
    pool: str = ""
    registers: str = ""


@dataclass(slots=True)
class Filled:
    """A network with a checkpoint's weights, and what to know of it."""

    network: nn.Module
    notes: list[str] = field(default_factory=list)
    untrained: tuple[str, ...] = ()
    """Weights that are not in the file, or of another shape there: random."""
    misfit: str = ""
    """The error to raise where a layer uses one of these."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of the builder that were read off the file."""


def load_checkpoint(
    build: Build,
    path: str | Path,
    what: str,
    *,
    other_heads: bool = True,
    infer: Inferred | None = None,
    adapt: Adapt | None = None,
) -> Filled:
    """A network built and filled from a checkpoint.

    The prefix that makes the names fit is found, not listed; tensors that are not the network's (losses, metrics,
    optimizers, profilers, copies) are skipped with a note. Where the file's classifier has another number of
    classes and `other_heads`, or shapes speak of another number of channels or size of images, the network is built
    again with these. `path` may end in "::NAME" for the part of the file to take, "dino.pth::teacher".

    What is missing is left random and listed in `untrained`: whoever uses the network must make sure that the layer
    does not depend on it (`models.untrained_weights`), and raise `misfit` otherwise.

    Raises:
        InputError: the file cannot be read, has tensors of another architecture in the network's modules, or fewer than
            half of the network's; some are listed.
    """
    file, choice = split_choice(path)
    read = read_tables(file)
    filled = Filled(build(None))
    fit, others = _fit(read, filled.network, choice, adapt)
    if not fit.whole:
        fit, others = _built_anew(build, filled, read, choice, fit, others, file, other_heads, infer, adapt)
    expected = len(fit.wanted) - sum(key.endswith("num_batches_tracked") for key in fit.wanted)
    trained = sum(not key.endswith("num_batches_tracked") for key in fit.state)
    if not fit.whole:
        said = [f"{key}={read.says[key]}" for key in _SAYS if key in read.says]
        hint = f" (the file says {', '.join(said[:4])})" if said else ""
        unexpected = f"; {some('unexpected', fit.foreign)}" if fit.foreign and not fit.unexpected else ""
        filled.misfit = f"checkpoint {file} does not fit {what}: {fit}{unexpected}{hint}"
    if fit.unexpected or trained * 2 < expected:
        raise InputError(filled.misfit)
    filled.network.load_state_dict(fit.state, strict=False)
    filled.untrained = (*fit.missing, *fit.shapes)
    filled.notes += [*read.notes, *_notes(fit, others, file)]
    return filled


def split_choice(path: str | Path) -> tuple[Path, str]:
    """The file, and the part of it to take.

    >>> split_choice("dino.pth::teacher")
    (PosixPath('dino.pth'), 'teacher')
    """
    whole = Path(path).expanduser()
    name, mark, choice = str(path).partition(CHOICE)
    if not mark or whole.exists():
        return whole, ""
    return Path(name).expanduser(), choice.strip().rstrip(".")


def _fit(read: Tables, network: nn.Module, choice: str, adapt: Adapt | None) -> tuple[Fit, list[str]]:
    fit, others = best_fit(read.tensors, network, choice)
    if choice and fit is None:
        beginnings = (key.partition(".")[0] for tensors in read.tensors.values() for key in tensors if "." in key)
        known = list(dict.fromkeys([*filter(None, read.tensors), *beginnings]))
        raise InputError(
            f"the checkpoint has no part {choice!r} that fits; it has: {', '.join(known[:8]) or 'one part'}"
        )
    if fit is None:
        first = next(iter(read.tensors))
        wanted = network.state_dict()
        fit = Fit(first, "", "", wanted, missing=list(wanted), unexpected=list(read.tensors[first]))
    if adapt is not None and not fit.whole:
        plain = {key.removeprefix(fit.prefix): value for key, value in read.tensors[fit.table].items()
                 if key.startswith(fit.prefix)}  # fmt: skip
        other, _ = best_fit({fit.table: adapt(plain, network)}, network)
        if other is not None and other.misfits() < fit.misfits():
            other.prefix = fit.prefix + other.prefix
            return other, others
    return fit, others


def _built_anew(
    build: Build,
    filled: Filled,
    read: Tables,
    choice: str,
    fit: Fit,
    others: list[str],
    file: Path,
    other_heads: bool,
    infer: Inferred | None,
    adapt: Adapt | None,
) -> tuple[Fit, list[str]]:
    """Build with the arguments that shapes speak of, one after the other, as long as more tensors fit."""
    classes: int | None = None
    arguments: dict[str, Any] = {}
    for _ in range(5):
        tried: list[Any] = []
        for number, extra in _candidates(fit, other_heads and classes is None, infer or Inferred(), arguments, filled):
            try:
                network = build(number if number is not None else classes, **{**arguments, **extra})
            except InputError:  # these arguments build no network
                continue
            again, also = _fit(read, network, choice, adapt)
            tried.append((again.misfits(), len(tried), number, extra, network, again, also))
        best = min(tried, default=None, key=lambda one: one[:2])
        if best is None or best[0] >= fit.misfits():
            break
        _, _, number, extra, filled.network, fit, others = best
        if number is not None:
            classes = number
            filled.notes.append(f"built with {number} classes, as many as checkpoint {file.name} has")
        for name, value in extra.items():
            arguments[name] = value
            filled.notes.append(f"built with {name}={value}, as shapes in checkpoint {file.name} say")
        if fit.whole:
            break
    filled.arguments = arguments
    return fit, others


def _candidates(
    fit: Fit, classes: bool, infer: Inferred, before: Mapping[str, Any], filled: Filled
) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """Numbers of classes and arguments under which tensors that differ now might fit."""
    pairs = {key: (tuple(fit.wanted[key].shape), tuple(fit.other[key].shape)) for key in fit.shapes}
    if classes:
        numbers = [own[0] for mine, own in pairs.values() if len(mine) == len(own) > 0 and mine[1:] == own[1:]]
        for number in list(dict.fromkeys(numbers))[:3]:
            yield number, {}
    if infer.channels and infer.channels not in before:
        for mine, own in pairs.values():
            if len(mine) == len(own) == 4 and mine[1] == 3 and mine[::2] == own[::2]:
                yield None, {infer.channels: own[1]}
                break
    if infer.size and infer.size not in before:
        for key, (mine, own) in pairs.items():
            if len(mine) == len(own) == 3 and mine[2] == own[2] and "pos" in key:
                yield from ((None, {infer.size: size}) for size in _sizes(filled.network, mine[1], own[1]))
                break
    if infer.pool and infer.pool not in before:
        left = {key.removeprefix(fit.prefix) for key in (*fit.unexpected, *fit.foreign)}
        if "fc_norm.weight" in left and "norm.weight" in fit.missing:
            yield None, {infer.pool: "avg"}
        elif "norm.weight" in left and "fc_norm.weight" in fit.missing:
            yield None, {infer.pool: "token"}
    if infer.registers and infer.registers not in before:
        for key in (*fit.unexpected, *fit.foreign):
            if key.endswith("reg_token"):
                yield None, {infer.registers: True}


def _sizes(network: nn.Module, mine: int, own: int) -> Iterator[int]:
    """Sides of square images that have as many patches as position embeddings in the file, with 0 to 5 other tokens."""
    patch = next((m.kernel_size[0] for m in network.modules() if isinstance(m, nn.Conv2d)), 0)
    for extra in (1, 0, 2, 5):
        side, before = round(max(own - extra, 0) ** 0.5), round(max(mine - extra, 0) ** 0.5)
        if patch and side**2 == own - extra and before**2 == mine - extra:
            yield side * int(patch)


def _notes(fit: Fit, others: Sequence[str], file: Path) -> Iterator[str]:
    if others:
        choose = f"to take another: --checkpoint {file.name}{CHOICE}{others[0]}"
        yield f"took {fit.name or 'the top level'!r} (not {', '.join(others)}) of checkpoint {file.name}; {choose}"
    elif fit.table:
        yield f"took {fit.table!r} of checkpoint {file.name}"
    if fit.prefix or fit.added:
        put = f", put {fit.added!r} before them" if fit.added else ""
        yield f"took the prefix {fit.prefix!r} off the names in checkpoint {file.name}{put}"
    if fit.foreign:
        yield f"ignored {some('tensors that are not of the network', fit.foreign)} in checkpoint {file.name}"
    if fit.missing or fit.shapes:
        lost = some("weights", [*fit.missing, *fit.shapes])
        yield f"not in checkpoint {file.name}, random: {lost}; the layer does not use them"
