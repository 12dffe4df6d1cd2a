"""What several commands share: their options, how these are read, and what is printed for programs."""

from __future__ import annotations

import codecs
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from contralens.checks import MOST_INDICES, InputError, shown

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Target = Annotated[
    str | None, typer.Option(help="The network: torchvision:NAME, timm:NAME, hf:ID, module:FILE.py:FUNCTION, world:1.")
]
Layer = Annotated[
    list[str] | None,
    typer.Option(help="Its layer; `contralens layers TARGET` lists them. Repeatable: one forward gives all."),
]
Encoder = Annotated[str | None, typer.Option(help="The image-text encoder: open_clip:ARCH/TAG, hf:ID, offline, world.")]
Images = Annotated[
    str | None,
    typer.Option(help="The probe images: a folder, @LIST.txt, hf-dataset:NAME:SPLIT[:COLUMN] or npz:FILE:ARRAY."),
]
Config = Annotated[
    Path | None,
    typer.Option(help="YAML file with any of these settings by their long names; what is given here goes before it."),
]
Pooling = Annotated[
    str | None,
    typer.Option(help="How a map or tokens become one number: mean, max, cls, mean_patches, ... (default: inferred)."),
]
Sae = Annotated[
    str | None,
    typer.Option(help="A sparse autoencoder over that layer, FILE or FOLDER[:kind=topk,k=32,...]."),
]
SaePooling = Annotated[str | None, typer.Option(help="How latents of patches become one: max (default), mean, cls.")]
Groups = Annotated[
    str | None,
    typer.Option(help="TABLE:COLUMN, images that belong together: of one patient, lesion, scene or video."),
]
Limit = Annotated[int | None, typer.Option(help="Use a seeded sample of that many images.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the sample (default 0).")]
BatchSize = Annotated[int | None, typer.Option(help="Images per forward pass (default 32).")]
Workers = Annotated[int | None, typer.Option(help="Threads that decode images (default: one per core).")]
Cache = Annotated[Path | None, typer.Option(help="Cache folder (default: $CONTRALENS_CACHE or ~/.cache/contralens).")]
Device = Annotated[
    str | None,
    typer.Option(help="Where the networks run (on CUDA mining and scoring, too): cpu (default), cuda, cuda:1, mps."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="Own weights for the architecture: .safetensors, .pt, .pth, .ckpt, a folder; FILE::PART for a part."
    ),
]
Weights = Annotated[str | None, typer.Option(help='Name of pretrained weights, or "random" for none.')]
Preprocess = Annotated[
    str | None, typer.Option(help='Preprocessing of own networks, e.g. "resize=256,crop=224,mean=imagenet".')
]
PrefixTokens = Annotated[
    int | None,
    typer.Option(help="Class and register tokens before the patches, where that is not found out."),
]
RankBy = Annotated[
    str | None,
    typer.Option(
        help='What ranks exemplars: "activation" (default), "relevance" to the predicted class, or '
        '"relevance:method=gradient,class=3".'
    ),
]
Decode = Annotated[
    str | None,
    typer.Option(help='"exact" (default): each network\'s own transform; "fast": on tensors, where that agrees.'),
]
Precision = Annotated[
    str | None,
    typer.Option(help='"float32" (default), or "bf16" where it is faster and the first images allow it.'),
]
AllowNondeterministic = Annotated[
    bool | None,
    typer.Option(
        "--allow-nondeterministic",
        help="Take a network whose activations are not a function of the image; the run says so.",
    ),
]
TrustConfig = Annotated[
    bool, typer.Option("--trust-code", help="Let the file name code to import, such as module:FILE.py:FUNCTION.")
]

# Of commands that take a finished run.
RunFolder = Annotated[Path, typer.Argument(help="A run folder.")]
Neurons = Annotated[str | None, typer.Option(help="Indices such as 0,5,10-20 (default: all labeled).")]
Source = Annotated[str | None, typer.Option(help="Where the run's images are now, if they moved.")]
Classes = Annotated[Path | None, typer.Option(help="File with the network's class names, one a line.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Let RUN name code to import and files to open, though not made here.")
]
Replace = Annotated[
    bool | None,
    typer.Option("--replace", help="Replace an older run even if it was edited or holds an evaluation, audit or maps."),
]
Fakes = Annotated[int, typer.Option(help="Null neurons of the null test.")]
RunDevice = Annotated[str, typer.Option(help="Where the networks run: cpu, cuda, cuda:1, mps.")]
RunBatchSize = Annotated[int, typer.Option(help="Images per forward pass.")]
RunSeed = Annotated[int, typer.Option(help="Seed of all that is drawn.")]


def indices(text: str, also: str = "") -> list[int]:
    """Numbers and ranges separated by commas; `also` names what else could have been given.

    >>> indices("1,4-6")
    [1, 4, 5, 6]
    """
    spans: list[range] = []
    for part in text.split(","):
        low, dash, high = (piece.strip() for piece in part.partition("-"))
        first, last = _index(low), _index(high if dash else low)
        if first is None or last is None:
            raise InputError(f"--neurons must be {also}indices such as 0,5,10-20; got {shown(text)}")
        if last < first:
            raise InputError(f"--neurons: {shown(part.strip())} goes down; write {last}-{first}")
        spans.append(range(first, last + 1))
    if (count := sum(span[-1] - span[0] + 1 for span in spans)) > MOST_INDICES:
        raise InputError(f"--neurons names {count:,} neurons; at most {MOST_INDICES:,} can be chosen by index")
    return [index for span in spans for index in span]


def _index(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None


def prices(text: str) -> tuple[float, float]:
    """Prices per million tokens, in and out.

    >>> prices("2.5/10")
    (2.5, 10.0)
    """
    try:
        into, out = (float(part) for part in text.split("/"))
    except ValueError:
        raise InputError(f"--price is tokens in and out per million, e.g. 2.5/10; got {text!r}") from None
    return into, out


def print_json(value: Any) -> None:
    """Print a value as JSON, NaN and infinities as null."""
    from contralens.data.folders import plain

    escaped = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name != "utf-8"
    typer.echo(json.dumps(plain(value), indent=2, ensure_ascii=escaped, default=str))
