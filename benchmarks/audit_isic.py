"""The same on real dermoscopic photographs: a ruler or a coloured patch drawn onto half of the nevi.

640 photographs of four kinds of lesion (ISIC archive); network: EfficientNet-Lite0 trained on ImageNet, with a linear
head for the four kinds, fitted to the tied half of the photographs; neurons: its 1,280 pooled features. Encoder:
`offline`, which mixes ImageNet classes and knows of dermoscopy what its words suggest ("ruler" and "Band Aid" are
ImageNet classes). Truth, found, intervals: as in `benchmarks/audit.py`; a network here is a split of the photographs.

    python benchmarks/audit_isic.py OUT [--folder ../shared/data/isic] [--seeds 5]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from audit import DRAWS, FDR, SCORERS, accuracies, measured, verdicts
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn

from contralens import concept_list, target
from contralens.auditing.alignment import embed_concepts, separation
from contralens.auditing.concepts import ConceptList
from contralens.encoders.registry import encoder
from contralens.world.artefacts import artefact_neurons, share_explained

KINDS = ("basal_cell_carcinoma", "melanoma", "nevus", "pigmented_benign_keratosis")
TIED, STRENGTH, LEAK = 2, 0.5, 0.02
OWN = {
    "title": "Lesions, in words that an ImageNet encoder may know",
    "expected": ["mole", "birthmark", "skin", {"name": "blood vessels", "synonyms": ["vein"]}, "scab"],
    "spurious": [
        {"name": "ruler", "synonyms": ["measuring stick", "scale"]},
        {"name": "band-aid", "synonyms": ["sticking plaster", "coloured disc", "badge"]},
        {"name": "hair", "synonyms": ["fur", "wig"]},
        {"name": "bubbles", "synonyms": ["water drops"]},
        {"name": "ink", "synonyms": ["pen", "marker"]},
    ],
}
LISTS: dict[str, Any] = {"own words": OWN, "dermoscopy": "dermoscopy"}


def with_ruler(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A pale ruler along the lower edge, with marks and numbers."""
    made = image.copy()
    draw = ImageDraw.Draw(made)
    w, h = made.size
    top, step = h - 34 + int(rng.integers(-4, 4)), 7
    draw.rectangle((0, top, w, h), fill=(236, 232, 214))
    for i, x in enumerate(range(int(rng.integers(0, step)), w, step)):
        draw.line((x, top, x, top + (16 if i % 5 == 0 else 9)), fill=(30, 30, 30), width=1)
        if i % 10 == 0:
            draw.text((x + 2, top + 17), str(i // 10), fill=(30, 30, 30))
    return made


def with_patch(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A disc of one of four plain colours, as wide as half the picture, that reaches in from a corner."""
    made = image.copy()
    w, h = made.size
    x, y = (float(rng.integers(0, 2) * side) for side in (w, h))
    x, y = x + rng.uniform(-12, 12), y + rng.uniform(-12, 12)
    colour = ((24, 92, 180), (240, 150, 30), (60, 150, 70), (232, 200, 60))[rng.integers(4)]
    ImageDraw.Draw(made).ellipse((x - 62, y - 62, x + 62, y + 62), fill=colour)
    return made


DRAWN = {"ruler": (with_ruler, "ruler"), "patch": (with_patch, "band-aid")}
"""Artefact -> how it is drawn, and the concept that names it in both lists."""


def rows_of(files: list[Path], cache: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Version -> features (I,1280) and embeddings (I,D); version is "none" or an artefact."""
    if cache.exists():
        return torch.load(cache, weights_only=True)  # type: ignore[no-any-return]
    network, eyes = target("offline:lite0", layer="global_pool"), encoder("offline")
    out = {}
    for version in ("none", *DRAWN):
        features, embeddings = [], []
        for start in range(0, len(files), 16):
            images = [Image.open(file).convert("RGB") for file in files[start : start + 16]]
            if version != "none":
                draw = DRAWN[version][0]
                images = [draw(image, np.random.default_rng(start + i)) for i, image in enumerate(images)]
            features.append(network(torch.stack([network.preprocess(image) for image in images])))
            embeddings.append(eyes(torch.stack([eyes.preprocess(image) for image in images])))
        out[version] = (torch.cat(features), torch.cat(embeddings))
        print(version, flush=True)
    torch.save(out, cache)
    return out


def fit_head(x: Tensor, y: Tensor) -> nn.Linear:
    """Logistic regression on standardised features with a ridge of 1e-2, folded back into one linear layer."""
    torch.manual_seed(0)
    mean, scale = x.mean(0), x.std(0).clamp_min(1e-3)
    head = nn.Linear(x.shape[1], len(KINDS))
    optimiser = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(head((x - mean) / scale), y) + 1e-2 * head.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[arg-type]
    with torch.no_grad():
        head.weight /= scale
        head.bias -= head.weight @ mean
    return head


def measure(
    rows: dict[str, tuple[Tensor, Tensor]],
    kinds: NDArray[np.int64],
    artefact: str,
    seed: int,
    lists: dict[str, ConceptList],
) -> dict[str, Any]:
    """One split: artefact neurons, what is found of them, accuracies on the other half of the photographs."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(kinds))
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    shown = rng.random(len(kinds)) < np.where(kinds == TIED, STRENGTH, LEAK)
    (off, e_off), (on, e_on) = rows["none"], rows[artefact]
    mark = torch.from_numpy(shown)[:, None]
    a, e = torch.where(mark, on, off), torch.where(mark, e_on, e_off)
    head = fit_head(a[train], torch.from_numpy(kinds)[train])
    true = artefact_neurons(share_explained(on[test].numpy(), off[test].numpy()))

    own, others = kinds[test] == TIED, kinds[test] != TIED

    def groups(keep: Tensor) -> dict[str, float]:
        out = {}
        for name, x in (("without", off), ("with", on)):
            with torch.no_grad():
                right = head(x[test] * keep).argmax(1).numpy() == kinds[test]
            out |= {f"others {name}": float(right[others].mean()), f"nevi {name}": float(right[own].mean())}
        return out

    truth = torch.from_numpy(~true).float()
    result: dict[str, Any] = {"artefact": artefact, "seed": seed, "true": true.tolist(), "lists": {}}
    result["accuracy"] = {"nothing": groups(torch.ones(len(true))), "truth": groups(truth)}
    for title, listed in lists.items():
        found, masks = verdicts(a[train], e[train], encoder("offline"), listed, DRAWN[artefact][1], true, seed)
        result["lists"][title] = {"true": true.tolist(), "verdicts": found}
        generator = torch.Generator().manual_seed(seed)
        for scorer in SCORERS:
            keep = torch.ones(len(true))
            keep[torch.tensor(found[scorer]["called"])] = 0
            result["accuracy"][f"{title}: {scorer}, the artefact's"] = groups(keep)
            result["accuracy"][f"{title}: {scorer}, all spurious"] = groups(masks[scorer])
        draws = [groups(masks["csp"][torch.randperm(len(true), generator=generator)]) for _ in range(DRAWS)]
        result["accuracy"][f"{title}: as many as csp's, at random"] = {
            group: float(np.mean([d[group] for d in draws])) for group in draws[0]
        }
        result["lists"][title]["pruned"] = {scorer: int((mask == 0).sum()) for scorer, mask in masks.items()}
    return result


def tables(results: list[dict[str, Any]]) -> str:
    lines = []
    for artefact in DRAWN:
        own = [r for r in results if r["artefact"] == artefact]
        count = np.mean([np.sum(r["true"]) for r in own])
        lines += [
            f"\n### {artefact}, on {STRENGTH:.0%} of the nevi and {LEAK:.0%} of the others", "",
            f"{len(own)} splits; {count:.0f} artefact neurons of 1,280 ({count / 1280:.3f}: precision of chance).", "",
            "| list | scorer | called | precision | recall | average precision |", "|---|---|---|---|---|---|",
        ]  # fmt: skip
        for title in LISTS:
            told = [r["lists"][title] for r in own]
            for scorer in SCORERS:
                called = np.mean([sum(t["verdicts"][scorer]["called"]) for t in told])
                lines.append(f"| {title} | `{scorer}` | {called:.0f} | {measured(told, scorer)} |")
        lines += ["", *accuracies(own)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "isic")
    parser.add_argument("--seeds", type=int, default=5, help="splits of the photographs")
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(
            f"no folder {options.folder}: it must hold one folder of photographs for each of {', '.join(KINDS)}"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    files = [(file, k) for k, kind in enumerate(KINDS) for file in sorted((options.folder / kind).iterdir())]
    kinds = np.array([k for _, k in files])
    rows = rows_of([file for file, _ in files], options.out / "rows.pt")
    lists = {title: concept_list(spec) for title, spec in LISTS.items()}
    for title, listed in lists.items():
        apart = separation(rows["none"][1], embed_concepts(encoder("offline"), listed))
        print(f"{title}: the encoder cannot tell {len(apart.confused)} of {len(listed)} concepts from others")
    results = [measure(rows, kinds, artefact, seed, lists) for artefact in DRAWN for seed in range(options.seeds)]
    (options.out / "audit_isic.json").write_text(json.dumps(results) + "\n")
    told = tables(results)
    (options.out / "audit_isic.md").write_text(told + "\n")
    print(f"{len(files)} photographs, false-discovery rate {FDR}\n{told}")


if __name__ == "__main__":
    main()
