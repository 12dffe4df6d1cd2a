"""The forms in which sparse autoencoders are stored: which tensors are what, and what their trainer did with them.

Checked against SAELens 6.54, overcomplete 0.3, dictionary_learning 0.1 and saev's header schemas 0 to 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from contralens.checks import InputError, blaming, shown

Config = Mapping[str, Any]


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
    norm: str = "none"
    scale: float | None = 1.0
    """None where the file says that activations were scaled, but not by how much."""
    notes: list[str] = field(default_factory=list)


def saelens(state: dict[str, Tensor], config: Config, name: str) -> Found | None:
    """SAELens: cfg.json and sae_weights.safetensors, of its releases before and since 6.0."""
    if "d_sae" not in config:
        return None
    kinds = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "batchtopk": "batchtopk"}
    kinds["matryoshka_batchtopk"] = "batchtopk"
    architecture = config.get("architecture", "standard")
    before = config.get("activation_fn_str", config.get("activation_fn"))
    if architecture == "standard" and before == "topk":  # before 6.0
        architecture = "topk"
    if architecture not in kinds:
        raise _unknown(f"{name}: SAELens architecture {architecture!r}", kinds)
    norm = config.get("normalize_activations") or "none"
    norm = "expected_average_only_in" if norm is True else norm  # before 6.0
    scale: float | None = 1.0
    if norm == "expected_average_only_in":
        scale, norm = (config.get("activation_scaler") or {}).get("scaling_factor"), "none"
    decoder = state.get("W_dec")
    rescaled = bool(config.get("rescale_acts_by_decoder_norm")) and decoder is not None
    return Found(
        "SAELens",
        _need(state, "W_enc", name),
        state.get("b_enc"),
        state.get("b_dec"),
        subtract=bool(config.get("apply_b_dec_to_input", True)),
        kind=kinds[architecture],
        decoder=decoder,
        k=config.get("k", (config.get("activation_fn_kwargs") or {}).get("k")),
        threshold=state.get("threshold", state.get("topk_threshold")),
        gain=decoder.float().norm(dim=1) if rescaled and decoder is not None else None,
        norm=norm,
        scale=scale,
    )


def saev(state: dict[str, Tensor], config: Config, name: str) -> Found | None:
    """saev: a line of JSON, then the tensors."""
    if "saev" not in config:
        return None
    header = config["saev"]
    schema = header.get("schema", 0)
    settings = header.get("cfg", {}) if schema else header
    activation = settings.get("activation") or {}
    stated = activation.get("cls") or (header.get("cls", "Relu") if schema else "Relu")
    cls = "Relu" if stated == "SparseAutoencoderConfig" else stated
    k = (activation.get("params") or settings).get("top_k")
    threshold = state.get("activation.threshold")
    kinds = {"Relu": "relu", "TopK": "topk", "BatchTopK": "batchtopk"}
    if cls not in kinds:
        raise _unknown(f"{name}: saev activation {cls!r}", kinds)
    kind, notes = kinds[cls], []
    if kind == "batchtopk" and threshold is None:
        kind = "topk"
        notes.append("saev's BatchTopK of this age has no threshold: the k largest of each token are kept")
    if schema == 0:
        notes.append("saev without schema: the decoder's bias is subtracted first, as the code did that trained it")
    return Found(
        f"saev, schema {schema}",
        _need(state, "W_enc", name),
        state.get("b_enc"),
        state.get("b_dec"),
        subtract=schema == 0,
        kind=kind,
        decoder=state.get("W_dec"),
        k=k,
        threshold=threshold,
        signed=True,
        notes=notes,
    )


def overcomplete(state: dict[str, Tensor], config: Config, name: str) -> Found | None:
    """overcomplete: the state dictionary of an SAE whose encoder is one linear layer, with or without batch norm."""
    if not any(key.startswith("dictionary.") for key in state):
        return None
    thresholds, atoms = state.get("thresholds"), state.get("dictionary._weights")
    found = Found(
        "overcomplete",
        next(iter(state.values())),
        None,
        None,
        subtract=False,
        kind="jumprelu" if thresholds is not None else None,
        decoder=None if atoms is None else normalize(atoms.float(), dim=1),
        could_be=("topk", "relu", "batchtopk"),
        threshold=None if thresholds is None else thresholds.float().exp(),
        at_threshold=True,
        notes=[] if atoms is None else ["overcomplete's dictionary is taken at length 1, as it is by default"],
    )
    keys = {key.removeprefix("encoder.") for key in state if key.startswith("encoder.")}
    if keys in ({"weight"}, {"weight", "bias"}):
        found.encoder, found.bias = state["encoder.weight"].T, state.get("encoder.bias")
        return found
    linear, norm = {"final_block.0.weight", "final_block.0.bias"}, "final_block.1."
    if not linear <= keys or any(not key.startswith(norm) for key in keys - linear):
        raise InputError(f"{name}: this encoder of overcomplete is not one linear layer: pass the model itself")
    weight, bias = state["encoder.final_block.0.weight"].float(), state["encoder.final_block.0.bias"].float()
    if keys - linear:
        if f"{norm}running_var" not in keys:
            raise InputError(f"{name}: overcomplete's layer norm after the encoder is not read: pass the model itself")
        mean, var, gain, shift = (
            state[f"encoder.{norm}{part}"].float() for part in ("running_mean", "running_var", "weight", "bias")
        )
        gain = gain / (var + 1e-5).sqrt()
        weight, bias = weight * gain[:, None], (bias - mean) * gain + shift
    found.encoder, found.bias = weight.T, bias
    return found


def dictionary_learning(state: dict[str, Tensor], config: Config, name: str) -> Found | None:
    """dictionary_learning: ae.pt, better with its config.json beside it."""
    trainer = config.get("trainer") or {}
    stated = str(trainer.get("dict_class", ""))
    if not ({"encoder.weight", "decoder.weight"} <= set(state) or (stated and "W_enc" in state)):
        return None
    if "decoder_bias" in state:
        raise InputError(f"{name}: a gated sparse autoencoder is not read: pass the model itself")
    kinds = {
        "AutoEncoder": "relu",
        "AutoEncoderNew": "relu",
        "AutoEncoderTopK": "topk",
        "BatchTopKSAE": "batchtopk",
        "MatryoshkaBatchTopKSAE": "batchtopk",
        "JumpReluAutoEncoder": "jumprelu",
    }
    if stated and stated not in kinds:
        raise _unknown(f"{name}: dictionary_learning class {stated!r}", kinds)
    kind = kinds[stated] if stated else None if "k" in state else "relu"
    b_dec = state.get("b_dec", state.get("bias"))  # "decoder.bias" is not subtracted
    return Found(
        "dictionary_learning",
        state["encoder.weight"].T if "encoder.weight" in state else state["W_enc"],
        state.get("encoder.bias", state.get("b_enc")),
        b_dec,
        subtract=b_dec is not None and stated != "JumpReluAutoEncoder",
        kind=kind,
        decoder=state["decoder.weight"].T if "decoder.weight" in state else state.get("W_dec"),
        could_be=("topk", "batchtopk"),
        k=_whole(state["k"]) if "k" in state else trainer.get("k"),
        threshold=state.get("threshold"),
    )


def plain(state: dict[str, Tensor], config: Config, name: str) -> Found | None:
    """Tensors by the usual names W_enc (D,N), b_enc, W_dec, b_dec, threshold, k, and nothing that says more."""
    if "W_enc" not in state:
        return None
    encoder, bias = state["W_enc"], state.get("b_enc")
    decoder, b_dec = state.get("W_dec"), state.get("b_dec")
    if bias is not None and encoder.shape[1] != len(bias) == encoder.shape[0]:
        encoder = encoder.T
    threshold, k = state.get("threshold"), state.get("k")
    kind: str | None = "relu"
    if threshold is not None and threshold.numel() > 1:
        kind = "jumprelu"
    elif k is not None or threshold is not None:
        kind = None if k is not None and threshold is not None else "topk" if k is not None else "jumprelu"
    subtract = b_dec is not None and kind != "jumprelu"
    notes = []
    if b_dec is not None:
        notes.append(
            f"b_dec is {'' if subtract else 'not '}subtracted from activations, as is usual for {kind or 'it'}"
        )
    return Found(
        "tensors by the usual names",
        encoder,
        bias,
        b_dec,
        subtract=subtract,
        kind=kind,
        decoder=decoder.T
        if decoder is not None and encoder.shape[0] != encoder.shape[1] == decoder.shape[-1]
        else decoder,
        could_be=("topk", "batchtopk"),
        k=None if k is None else _whole(k),
        threshold=threshold,
        notes=notes,
    )


FORMATS: dict[str, Callable[[dict[str, Tensor], Config, str], Found | None]] = {
    "SAELens": saelens,
    "saev": saev,
    "overcomplete": overcomplete,
    "dictionary_learning": dictionary_learning,
    "plain": plain,
}
"""Forms by name, asked in this order; each gives None for what is not its own."""


def find(state: dict[str, Tensor], config: Config, name: str) -> Found:
    """What tensors and configuration say, by the first form that knows them."""
    for prefix in ("module.", "_orig_mod."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    for form in FORMATS.values():
        with blaming(f"{name}: its tensors and settings make no sparse autoencoder"):
            found = form(state, config, name)
        if found is not None:
            if found.encoder.dim() != 2:
                raise InputError(f"{name}: the encoder must be a matrix; got shape {tuple(found.encoder.shape)}")
            return found
    some = ", ".join(list(state)[:4]) or "nothing"
    raise InputError(
        f"{name} is no sparse autoencoder in a known form ({', '.join(FORMATS)}); it holds {some}: name the tensors "
        "W_enc (D,N), b_enc, b_dec, or pass the model itself"
    )


def _whole(number: Tensor) -> int:
    """A whole number kept as a tensor of one entry."""
    if number.numel() != 1 or number.is_complex() or float(number) != round(float(number)):
        raise InputError(f"k must be one whole number; got {shown(number.tolist())}")
    return int(number)


def _need(state: Mapping[str, Tensor], key: str, name: str) -> Tensor:
    if key not in state:
        raise InputError(f"{name} lacks the tensor {key}; it holds {', '.join(list(state)[:4]) or 'nothing'}")
    return state[key]


def _unknown(what: str, kinds: Mapping[str, str]) -> InputError:
    return InputError(f"{what} is not read (known: {', '.join(kinds)}): pass the model itself")
