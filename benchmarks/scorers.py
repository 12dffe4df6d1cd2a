"""Published scorers against ours (`lookalike`, `auto`), where the truth is known and where it is not.

Choosing and testing are kept apart.

Target and encoder swap between the parts. Development: target EfficientNet-Lite2, encoder offline:lite0, even classes,
held-out images A, world 1. Test: target Lite0, encoder offline:lite2, odd classes, held-out images B, worlds 2 and 3.
The judge of hidden neurons is human annotation (captions, class names), embedded by the labeling encoder's own
sentence model: independent on the image side, the same on the text side. The SAE is a small one trained here. The
weights of `auto` were fitted on worlds 1 to 3, so there it is left out (confidence.py leaves a world out of the fit).
New, for `auto`: target Lite1 (its even outputs were fitted on, not the odd ones, and no hidden layer), encoder
offline:lite0, held-out images C, and networks fine-tuned in two new worlds.

    python benchmarks/scorers.py [test|development|new] [--part worlds|photographs] [--scorer NAME ...] [--json FILE]

Needs the photographs in ../shared/data beside the checkout. Rows are kept in --cache; the first run takes some minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from new_worlds import shipped_target, tuned_target
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from contralens.bench.training import rows_of
from contralens.bench.world_images import score_labels
from contralens.data.images import images as image_set
from contralens.data.vocabulary import read_vocabulary
from contralens.data.wordnet import find_wordnet
from contralens.encoders.offline_encoder import OfflineEncoder, Sentences
from contralens.encoders.registry import embed_texts
from contralens.errors import ImageError
from contralens.loading.offline_networks import offline_target_module
from contralens.math.confidence import label_confidence
from contralens.math.exemplars import find_exemplars
from contralens.math.intervals import clustered_interval, mean_interval
from contralens.math.metrics import active, auprc, pearson
from contralens.math.null_test import best_labels
from contralens.math.scoring import run_scorer
from contralens.math.statistics import neuron_statistics
from contralens.math.tensors import keeping_memory
from contralens.types import Exemplars
from contralens.world.captions import concepts
from contralens.world.encoder import load_encoder
from contralens.world.planted import planted_activations
from contralens.world.render import render
from contralens.world.targets import WORLDS, World, world
from contralens.world.truth import known, target_activations

PAPERS = ("semanticlens", "csp:gamma=0", "csp:gamma=0.5", "csp", "clip_dissect", "clip_dissect_csp")
OTHERS = ("centred", "centred:gamma=1", "mean_difference", "linear", "invert", "describe_and_dissect")
OURS = ("lookalike", "lookalike:power=auto", "auto")
SPLITS: dict[str, dict[str, Any]] = {
    "development": {"target": "lite2", "encoder": "lite0", "first": 0, "held": 0, "worlds": (1,), "seed": 20000,
                    "dials": (0.0, 0.5, 0.8, 0.95)},
    "test": {"target": "lite0", "encoder": "lite2", "first": 1, "held": 1, "worlds": (2, 3), "seed": 30000,
             "dials": (0.0, 0.3, 0.6, 0.9)},
    "new": {"target": "lite1", "encoder": "lite0", "first": 1, "held": 2, "worlds": (
        World(15, "colour", {"shape": {"red": "moon", "orange": "star", "yellow": "ring", "green": "heart",
                                       "blue": "circle", "purple": "cross", "pink": "triangle", "white": "square"}}),
        World(16, "pattern", {"background": {"plain": "night", "striped": "water", "dotted": "brick",
                                             "checkered": "grass", "zigzag": "snow", "split": "sand"}}),
    ), "seed": 40000, "dials": (0.0, 0.3, 0.6, 0.9)},
}  # fmt: skip
CACHE = Path("/tmp/contralens-scorers")
K = 30
NEURONS = 640
"""Hidden neurons drawn from a layer."""
Judge = Callable[[Tensor], dict[str, NDArray[np.float64]]]


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """What `make` gives, from `file` if it is there."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(make(), file)
    return torch.load(file, weights_only=False)


@keeping_memory()
@torch.inference_mode()
def photographs(folder: Path) -> dict[str, Any]:
    """The networks on all photographs but the skin lesions: logits, two hidden layers, 16 places of the last map."""
    found = image_set(folder)
    nets: dict[str, Any] = {}
    for which in ("lite0", "lite1", "lite2"):
        net, transform, _ = offline_target_module(which)
        seen: dict[str, Tensor] = {}
        for name, module in {"mid": net.blocks[4][-1].bn2, "head": net.bn2}.items():  # type: ignore[index, union-attr]
            module.register_forward_hook(lambda _m, _i, o, name=name, seen=seen: seen.update({name: o.clone()}))
        nets[which] = (net, transform, seen, {"logits": [], "mid": [], "head": [], "tokens": []})
    generator, ids = torch.Generator().manual_seed(0), []
    wanted = [i for i, name in enumerate(found.ids) if not name.startswith("isic/")]
    for start in range(0, len(wanted), 32):
        pictures = []
        for i in wanted[start : start + 32]:
            try:
                pictures.append(found.load(i))
            except ImageError:
                continue
            ids.append(found.ids[i])
        for net, transform, seen, rows in nets.values():
            rows["logits"].append(net(torch.stack([transform(p) for p in pictures])))
            rows["mid"].append(seen["mid"].mean((2, 3)))
            rows["head"].append(seen["head"].mean((2, 3)))
            places = seen["head"].flatten(2).transpose(1, 2)
            pick = torch.rand(places.shape[:2], generator=generator).argsort(1)[:, :16, None]
            rows["tokens"].append(places.gather(1, pick.expand(-1, -1, places.shape[2])).half())
        print(f"\r{start + len(pictures)}/{len(wanted)} photographs", end="", flush=True)
    print()
    return {"ids": ids, **{w: {k: torch.cat(v) for k, v in n[3].items()} for w, n in nets.items()}}


def annotations(ids: list[str], folder: Path) -> Tensor:
    """What people say of each photograph, as the mean of its sentence embeddings (I,D)."""
    captions: dict[str, list[str]] = {}
    for line in (folder / "flickr/captions.tsv").read_text().splitlines():
        image, _, text = line.partition("\t")
        captions.setdefault(image, []).append(text)
    of_class: dict[str, list[str]] = {}
    for line in (folder / "imagenet-class-texts.tsv").read_text().splitlines():
        wnid, kind, text = line.split("\t")
        if kind in ("name", "syn", "gloss"):
            of_class.setdefault(wnid, []).append(text)
    said = []
    for name in ids:
        root, inside = name.split("/")[:2]
        if root == "flickr":
            said.append(captions[name.split("/")[-1]])
        elif root == "imagenet-samples":
            said.append(of_class[inside.split("_")[0]])
        else:
            said.append([f"a photo of {inside.replace('_', ' ').lower()}"])
    texts = sorted({t for some in said for t in some})
    rows, at = Sentences()(texts), {t: i for i, t in enumerate(texts)}
    return torch.stack([rows[[at[t] for t in some]].mean(0) for some in said])


def sparse_latents(tokens: Tensor, width: int = 1536, k: int = 16, steps: int = 500) -> Tensor:
    """A TopK sparse autoencoder trained on places (I,P,W); its latents' maxima over the places (I,width)."""
    torch.manual_seed(0)
    x = tokens.reshape(-1, tokens.shape[-1])
    scale = x[:4096].float().norm(dim=1).mean()
    decoder = nn.Parameter(normalize(torch.randn(width, x.shape[1]), dim=1))
    encoder = nn.Parameter(decoder.detach().T.contiguous())
    middle, offset = nn.Parameter(x[:8192].float().mean(0) / scale), nn.Parameter(torch.zeros(width))

    def latents(rows: Tensor) -> Tensor:
        value, place = ((rows.float() / scale - middle) @ encoder + offset).relu().topk(k, 1)
        return torch.zeros(len(rows), width).scatter(1, place, value)

    optimiser = torch.optim.Adam([decoder, encoder, middle, offset], 1e-3)
    for _ in range(steps):
        rows = x[torch.randint(len(x), (1024,))].float()
        loss = (latents(rows) @ decoder + middle - rows / scale).square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        decoder.data = normalize(decoder.data, dim=1)
    with torch.no_grad():
        return torch.stack([latents(rows).amax(0) for rows in tokens])


def photo_cases(split: dict[str, Any], folder: Path, cache: Path) -> Iterator[tuple[Tensor, Tensor, Tensor, Judge]]:
    """Activations and embeddings of the probe photographs, texts, and what labels (N) are worth."""
    rows = kept(cache / "photographs.pt", lambda: photographs(folder))
    eyes, own = OfflineEncoder(split["encoder"]), rows[split["target"]]
    e = normalize(eyes.mix(rows[split["encoder"]]["logits"]), dim=1)
    judge = normalize(kept(cache / "annot.pt", lambda: annotations(rows["ids"], folder)) - eyes._mean, dim=1)
    order = torch.randperm(len(e), generator=torch.Generator().manual_seed(1))
    quarter = len(e) // 4
    held = order[split["held"] * quarter : (split["held"] + 1) * quarter].sort().values
    probe = torch.ones(len(e), dtype=torch.bool).index_fill(0, held, False).nonzero()[:, 0]
    names = list(read_vocabulary("imagenet").concepts)
    nouns = (folder / "vocabulary-imagenet21k-nouns.txt").read_text().replace("_", " ").splitlines()
    taken = {name.casefold() for name in names}
    words = names + [noun for noun in dict.fromkeys(map(str.strip, nouns)) if noun and noun.casefold() not in taken]
    texts = kept(cache / "texts-big.pt", lambda: embed_texts(eyes, words))
    place = {word.casefold(): i for i, word in enumerate(words)}
    wordnet, classes = find_wordnet(), torch.arange(split["first"], 1000, 2)
    wnids = [line[:9] for line in (folder / "imagenet-classes.tsv").read_text().splitlines() if line[0] == "n"]
    titles = offline_target_module(split["target"])[2]
    right = []
    for c in classes.tolist():
        synonyms = {titles[c].casefold(), *(w.casefold() for w in wordnet._synset(int(wnids[c][1:])).words)}
        right.append({place[w] for w in synonyms if w in place})

    def truthful(title: str) -> Judge:
        return lambda labels: {
            f"{title}: right": np.array([int(x) in r for x, r in zip(labels, right, strict=True)], float)
        }

    logits = own["logits"][:, classes]
    yield logits[probe], e[probe], texts[: len(names)], truthful("output, 1,000 names")
    yield logits[probe], e[probe], texts, truthful("output, 10,000 nouns")

    def faithful(title: str, a: Tensor) -> Judge:
        def judged(labels: Tensor) -> dict[str, NDArray[np.float64]]:
            said = judge[held] @ texts[labels].T
            precision = auprc(active(a), said)
            return {f"{title}: correlation": pearson(a, said).numpy(), f"{title}: AUPRC": precision.numpy()}

        return judged

    latents = kept(cache / f"sae-{split['target']}.pt", lambda: sparse_latents(own["tokens"]))
    for title, a in (("conv_head", own["head"]), ("block 4", own["mid"]), ("SAE", latents)):
        ok = torch.tensor([s == "ok" for s in neuron_statistics(a[probe]).status()])
        some = (ok & ((a[probe] > 1e-6).sum(0) >= 20)).nonzero()[:, 0]
        drawn = torch.randperm(len(some), generator=torch.Generator().manual_seed(2))[:NEURONS].sort().values
        a = a[:, some[drawn]]
        yield a[probe], e[probe], texts, faithful(title, a[held])


def world_cases(split: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor, Tensor, Judge, NDArray[Any]]]:
    """As above for planted and trained neurons of the worlds at every dial; and which neurons stand for one level."""
    words, eyes = [c.text for c in concepts()], load_encoder()
    for place in map(world, split["worlds"]):
        index = place.index
        net, measured = shipped_target(place) if index in WORLDS else tuned_target(place)
        for dial in split["dials"]:
            scenes = place.scenes(2000, split["seed"] + index, dial)
            pictures = render(scenes)
            e = rows_of(eyes.model.image, pictures)  # type: ignore[arg-type]
            hidden = np.concatenate(list(target_activations(net, pictures).values()), 1)
            planted, _, rules = planted_activations(scenes, place)
            for kind, a, truth in (("planted", planted, rules), ("trained", hidden, measured)):
                ok = known(truth)
                groups = np.array([f"{index}/{t.levels}" for t in truth])[ok]

                def judged(
                    labels: Tensor, kind: str = kind, truth: Any = truth, ok: Any = ok, dial: float = dial
                ) -> dict[str, NDArray[np.float64]]:
                    found = score_labels([words[i] for i in labels.tolist()], truth)[ok].astype(float)
                    return {f"world, {kind}: right": found, f"world, {kind}, tie {dial:g}: right": found}

                yield torch.from_numpy(a), e, eyes.texts(words), judged, groups


def best_of(spec: str, exemplars: Exemplars, a: Tensor, e: Tensor, texts: Tensor) -> Tensor:
    """(N) labels; 0 for a neuron without one."""
    if spec == "auto":
        return label_confidence(a, e, texts, k=K).labels.clamp_min(0)
    return best_labels(run_scorer(spec, exemplars, e, texts, a)).clamp_min(0)


def compared(
    measure: str, by: dict[str, list[NDArray[np.float64]]], clusters: list[NDArray[Any]]
) -> Iterator[dict[str, Any]]:
    """Each of our scorers against each published one and against the best of these on this measure, paired."""
    joined = {spec: np.concatenate(parts) for spec, parts in by.items()}
    means = {spec: float(np.nanmean(v)) for spec, v in joined.items()}
    published = [spec for spec in joined if spec in PAPERS]
    best = max(published, key=lambda spec: means[spec])
    for spec in (spec for spec in OURS if spec in joined):
        differences = {}
        for other in published:
            d = joined[spec] - joined[other]
            found = clustered_interval(d, np.concatenate(clusters)) if clusters else mean_interval(d)
            differences[other] = {"difference": found.mean, "low": found.low, "high": found.high}
        own = differences[best]
        print(f"{measure:34} {spec} {means[spec]:.3f}  best published {best} {means[best]:.3f}  "
              f"{own['difference']:+.3f} ({own['low']:+.3f} to {own['high']:+.3f})  csp {means['csp']:.3f}",
              flush=True)  # fmt: skip
        yield {"measure": measure, "scorer": spec, "mean": means[spec], "means": means, "best": best,
               "count": int(np.isfinite(joined[spec]).sum()), "against": differences}  # fmt: skip


def main() -> None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("split", nargs="?", choices=list(SPLITS), default="test")
    parser.add_argument("--folder", type=Path, default=beside)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scorer", action="append", help="these only, beside csp; may be repeated")
    parser.add_argument("--part", choices=("worlds", "photographs"), help="this part only")
    args = parser.parse_args()
    split = SPLITS[args.split]
    values: dict[str, dict[str, list[NDArray[np.float64]]]] = {}
    clusters: dict[str, list[NDArray[Any]]] = {}
    specs = [spec for spec in (*PAPERS, *OTHERS, *OURS) if not args.scorer or spec in ("csp", *args.scorer)]
    took: dict[str, float] = {}
    photos = ((*case, None) for case in photo_cases(split, args.folder, args.cache))
    parts = {"worlds": lambda: world_cases(split), "photographs": lambda: photos}
    for a, e, texts, judge, groups in chain(*(make() for part, make in parts.items() if args.part in (None, part))):
        exemplars = find_exemplars(a, e, k=K)
        for spec in specs:
            if spec == "auto" and groups is not None and args.split != "new":
                continue
            start = process_time()
            labels = best_of(spec, exemplars, a, e, texts)
            took[spec] = took.get(spec, 0.0) + process_time() - start
            for measure, found in judge(labels).items():
                values.setdefault(measure, {}).setdefault(spec, []).append(found)
                if groups is not None and spec == "csp":
                    clusters.setdefault(measure, []).append(groups)
    rows = [row for measure, by in values.items() for row in compared(measure, by, clusters.get(measure, []))]
    print("CPU seconds: " + ", ".join(f"{spec} {seconds:.1f}" for spec, seconds in took.items()))
    if args.json:
        args.json.write_text(json.dumps({"split": args.split, "rows": rows, "cpu_seconds": took}, indent=1) + "\n")


if __name__ == "__main__":
    main()
