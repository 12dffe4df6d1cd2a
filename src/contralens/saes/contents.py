"""What a sparse autoencoder's file holds: each tensor and setting is used, known to change no latent, or reported.

A form (`sae_trainers`, `sae_formats`) asks a `Contents` for tensors and settings by name. What nobody asked for is then
looked at by `unused`: an unknown tensor, or a setting that by its name changes latents, is refused by name; settings of
the training are skipped; any other setting is named in a note.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from contralens.checks import shown
from contralens.errors import InputError


@dataclass(slots=True)
class Found:
    """What a file says about a sparse autoencoder; see `autoencoders.Autoencoder`."""

    what: str
    """The form, in words."""
    encoder: Tensor
    """(D,N)."""
    bias: Tensor | None
    b_dec: Tensor | None
    subtract: bool
    """Whether the decoder's bias is subtracted from the activations."""
    kind: str | None
    """None where the file leaves it open."""
    decoder: Tensor | None = None
    """(N,D)."""
    could_be: tuple[str, ...] = ()
    k: int | None = None
    threshold: Tensor | None = None
    at_threshold: bool = False
    signed: bool = False
    gain: Tensor | None = None
    gate: Tensor | None = None
    """(N), the bias of a gated autoencoder's gate."""
    magnitude: Tensor | None = None
    """(N), r_mag of a gated autoencoder: the logarithm of what its magnitudes are multiplied by."""
    norm: str = "none"
    center: Tensor | None = None
    """(D), subtracted from the activations first."""
    std: Tensor | None = None
    """(D), what they are divided by after that."""
    scale: float | None = 1.0
    """None where the file says that activations were scaled, but not by how much."""
    tokens: str = ""
    """"cls" or "patches" where it was trained on those tokens only."""
    notes: list[str] = field(default_factory=list)


class Contents:
    """Tensors and settings of a file by name, and which of them a form has used.

    >>> import torch
    >>> c = Contents({"W_enc": torch.ones(4, 8)}, {"trainer": {"k": 3}, "seed": 0}, "sae.pt")
    >>> c.setting("k", "trainer.k"), c.tensor("b_enc", "bias"), "W_enc" in c
    (3, None, True)
    """

    def __init__(self, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], name: str, kind: str | None = None):
        self.tensors = dict(tensors)
        self.settings = dict(_flat(settings))
        self.name = name
        self.kind = kind
        """The kind that the user asks for, whatever the file says."""
        self._used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def has(self, *settings: str) -> bool:
        """Whether any setting of these names is there."""
        return any(name in self.settings for name in settings)

    def tensor(self, *names: str) -> Tensor | None:
        """The tensor by the first of these names that the file has; a number will do."""
        for name in names:
            if name in self.tensors:
                self._used.add(name)
                return self.tensors[name]
            if isinstance(self.settings.get(name), int | float) and not isinstance(self.settings[name], bool):
                self._used.add(name)
                return torch.tensor(self.settings[name])
        return None

    def need(self, *names: str) -> Tensor:
        """The same, or an error that names it."""
        found = self.tensor(*names)
        if found is None:
            held = ", ".join(list(self.tensors)[:4]) or "nothing"
            raise InputError(f"{self.name} has no tensor {' or '.join(names)}; it holds {held}")
        return found

    def setting(self, *names: str, default: Any = None) -> Any:
        """The setting by any of these names (dots lead inwards); an error if two of them disagree."""
        said = {name: self.settings[name] for name in names if self.settings.get(name) is not None}
        self._used.update(name for name in names if name in self.settings)
        values = list(said.values())
        if any(value != values[0] for value in values):
            raise InputError(
                f"{self.name}: its settings disagree: " + ", ".join(f"{n} is {shown(v)}" for n, v in said.items())
            )
        return values[0] if values else default

    def count(self, *names: str) -> Any:
        """k, as a tensor or as a setting by one of these names."""
        for name in {"k", "activation.k"} & set(self.tensors):
            k = self.need(name)
            if k.numel() != 1 or k.is_complex() or float(k) != round(float(k)):
                raise InputError(f"k must be one whole number; got {shown(k.tolist())}")
            self.settings[f"the tensor {name}"] = int(k)
        return self.setting("the tensor k", "the tensor activation.k", *names)

    def passed(self, *names: str) -> None:
        """These tensors and settings (and what lies inside them) are known to this form and change no latent."""
        for name in names:
            self._used.add(name)
            self._used.update(key for key in self.settings if key.startswith(f"{name}."))

    def check_widths(self, inputs: int, latents: int, ignore: Collection[str] = ()) -> None:
        """Refuse settings that give other widths than the encoder has."""
        for name, value in self.settings.items():
            last = name.rpartition(".")[2]
            for names, width, what in ((_INPUTS, inputs, "activations"), (_LATENTS, latents, "latents")):
                if last in names and not {name} & (self._used | {*ignore}) and isinstance(value, int):
                    self._used.add(name)
                    if value not in (0, width):  # 0 leaves it to another setting
                        raise InputError(
                            f"{self.name}: its settings say {name} = {value}, but the encoder has {width} {what}: they "
                            f"are those of another file; take them away, or add ignore={name}"
                        )

    def unused(self, what: str, ignore: Collection[str] = ()) -> list[str]:
        """Notes on settings that nothing used; an error that names what would have changed the latents."""
        unknown = [name for name in ignore if name not in self.tensors and name not in self.settings]
        if unknown:
            raise InputError(f"{self.name} has no tensor or setting {unknown[0]!r} to ignore")
        rest = [name for name in self.tensors if name not in self._used and name not in ignore]
        rest = [name for name in rest if not _COUNTERS.search(name)]
        if rest:
            some = ", ".join(f"{name} {tuple(self.tensors[name].shape)}" for name in rest[:4])
            raise InputError(
                f"{self.name} ({what}) holds {some}{', ...' if len(rest) > 4 else ''}, which is not used and "
                f"may change the latents: if not, add ignore={'+'.join(rest)}; else pass the model itself"
            )
        left = {n: v for n, v in self.settings.items() if n not in self._used and n not in ignore}
        left = {name: value for name, value in left.items() if not _neutral(name, value)}
        sure = [name for name in left if _changes_latents(name)]
        if sure:
            some = ", ".join(f"{name} = {shown(left[name], 40)}" for name in sure[:4])
            raise InputError(
                f"{self.name} ({what}): its settings say {some}, which is not read and may change the latents: if not, "
                f"add ignore={'+'.join(sure)}; else pass the model itself"
            )
        odd = [f"{name} = {shown(v, 40)}" for name, v in left.items() if not _is_training(name)]
        more = f", ... {len(odd) - 8} more" if len(odd) > 8 else ""
        return [f"settings of the sparse autoencoder that are not used: {', '.join(odd[:8])}{more}"] if odd else []


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def is_sae_settings(settings: Mapping[str, Any]) -> bool:
    """Whether a JSON file beside weights speaks of a sparse autoencoder, not of a network of transformers."""
    if "model_type" in settings or "architectures" in settings:
        return False
    return any(name.rpartition(".")[2] in _SIGNS or name.startswith("trainer.") for name, _ in _flat(settings))


def _neutral(name: str, value: Any) -> bool:
    """Whether a setting asks for nothing: off, empty, 0, or a factor of 1."""
    if isinstance(value, int | float) and value == 1 and not isinstance(value, bool):
        return bool(re.search("scal|std|temperature|factor", name))
    return value in (None, False, "", "none", "None") or (isinstance(value, list | tuple) and not value)


def _changes_latents(name: str) -> bool:
    last = name.rpartition(".")[2]
    if last in _SURE or _SCALED.search(last):
        return True
    return not _is_training_part(name) and bool(_SUSPECT.search(last)) and not _TRAINING.search(last)


def _is_training(name: str) -> bool:
    last = name.rpartition(".")[2]
    if re.search(r"(class|cls|patch\w*)_(token|only)", last):  # which tokens it was trained on
        return False
    return _is_training_part(name) or bool(_TRAINING.search(last) or _ABOUT.search(last))


def _is_training_part(name: str) -> bool:
    return any(part in _PARTS for part in name.split(".")[:-1])


_INPUTS = {"d_in", "d_model", "d_vit", "activation_dim", "act_size", "n_inputs", "input_dim"}
_LATENTS = {"d_sae", "dict_size", "num_latents", "n_latents", "n_dirs", "n_dirs_local", "nb_concepts"}
_SURE = {"rescale_acts_by_decoder_norm", "apply_b_dec_to_input", "normalize_activations", "activation_fn_str"}
_SCALED = re.compile(r"(scal|multipl|divid)\w*_(\w+_)?(acts?|activations|latents|features|by_dec)")
_SIGNS = _INPUTS | _LATENTS | _SURE | {"expansion_factor", "activation_fn", "layer_subtype", "top_k", "dict_class"}
_PARTS = {"buffer", "optimizer", "scheduler", "wandb", "data", "dataset", "sparsity", "aux", "objective", "metadata",
          "run_cfg", "logger", "logging", "training", "vit_model_cfg", "model_kwargs"}  # fmt: skip
"""Groups of settings that are about the training."""
_TRAINING = re.compile(
    r"(^|_)(lr|l[01p]|loss|coeff?s?|coefficients?|penalty|sparsity|warm|warmup|decay|seeds?|steps?|epochs?|batch_size|"
    r"batches|wandb|logs?|logging|verbose|device|dtype|autocast|optim\w*|adam\w*|betas?|momentum|grads?|scheduler|"
    r"checkpoints?|dead|ghost|resampl\w*|aux\w*|init\w*|reinit\w*|dec|decoder|noise|bandwidth|workers|buffer|paths?|"
    r"dirs?|cached|split_by_head|anneal|queue|compile|ddp|evals?|alpha|multi_topk)(_|$)"
)
_ABOUT = re.compile(
    r"(^|_)(names?|ids?|model|vit|clip|hook|layers?|subtype|submodule|dataset|data|images?|context|tokens?|tokenizer|"
    r"prompt|prepend|version|lib|commit|schema|expansion|exp|class|remote|trust|release|tags|training|train|total|"
    r"pretrained|revision|hash|git|host|user|date|time|window|features?|metadata|library|framework|format|fractions?|"
    r"weights|groups?|matryoshka|widths?|sampling|min|max|head|subset|neuronpedia|max_iter|use_error_term)(_|$)"
)
"""Names of settings that say on what it was trained."""
_SUSPECT = re.compile(
    r"norm|scal|cent(er|re)|whiten|threshold|activation|topk|top_k|relu|transcod|architecture|"
    r"(^|_)(mean|std|mu|sigma|gated?|skip|tied|k|kind|cap|signed|temperature)(_|$)"
)
_COUNTERS = re.compile(
    r"(^|[._])(num_batches_tracked|stats_last_nonzero|latents_activation_frequency|latents_mean_square|"
    r"log_feature_sparsity|feature_sparsity|num_tokens_since_fired|act_freq\w*|n_forward_passes_since_fired|last_active|"
    r"steps_since_active)$"
)
"""Tensors that count what happened in training."""
