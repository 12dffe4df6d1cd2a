"""contralens beside the SemanticLens package, on the same network, encoder and images: do they agree, and what do they cost?

    pip install semanticlens
    python benchmarks/semanticlens_peer.py [--images 2000]

Both label the 64 channels of the first rendered world's target by the mean of their 30 exemplars, from an empty cache, and compute
the three audit scores. CPU seconds are those of this process, on one thread.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

import contralens
from contralens.bench.world_images import vocabulary, write_world
from contralens.data.store import Store
from contralens.math import exemplar_statistics
from contralens.run_data.stored import cached_rows, exemplars_of

K = 30


class Pictures(Dataset[tuple[Any, int]]):
    """The images of a folder in sorted order, as pairs with a class that nobody needs."""

    name = "world-1"

    def __init__(self, paths: Sequence[Path], transform: Any = None) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        with Image.open(self.paths[index]) as opened:
            picture = opened.convert("RGB")
        return (self.transform(picture) if self.transform else picture), 0


class Texts(list[str]):
    """Texts that can be sent to a device, as SemanticLens does with tokens."""

    def to(self, device: Any) -> Texts:
        return self


def theirs(paths: Sequence[Path], concepts: list[str], encoder: Any, target: Any) -> dict[str, Any]:
    """Exemplars, labels and audit scores by the SemanticLens package."""
    import semanticlens
    from semanticlens.component_visualization import ActivationComponentVisualizer
    from semanticlens.foundation_models.base import AbstractVLM

    class Same(AbstractVLM):  # type: ignore[misc]
        """The encoder of contralens, as their foundation model."""

        device = "cpu"

        def to(self, device: Any) -> None: ...

        def preprocess(self, img: Any) -> Any:
            return torch.stack([encoder.preprocess(picture) for picture in img])

        def encode_image(self, batch: Any) -> Any:
            return encoder(batch)

        def tokenize(self, txt: Any) -> Texts:
            return Texts(txt)

        def encode_text(self, texts: Any) -> Any:
            return encoder.texts(texts)

    begin = time.process_time()
    visualizer = ActivationComponentVisualizer(
        target.module, Pictures(paths, target.preprocess), Pictures(paths), [target.layer], num_samples=K, device="cpu"
    )
    lens = semanticlens.Lens(Same(), device="cpu")
    examples = lens.compute_concept_db(visualizer, batch_size=32)[target.layer]
    scores = lens.text_probing(concepts, examples.mean(1))  # (C,N)
    labeled = time.process_time() - begin
    return {
        "positives": visualizer.get_max_reference(target.layer),
        "labels": [concepts[i] for i in scores.argmax(0).tolist()],
        "clarity": lens.eval_clarity(examples),
        "redundancy": lens.eval_redundancy(examples.mean(1)),
        "polysemanticity": lens.eval_polysemanticity(examples),
        "cpu": labeled,
    }


def ours(folder: Path, concepts: list[str], encoder: Any, target: Any, scorers: Sequence[str]) -> dict[str, Any]:
    """The same by contralens, from an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        begin = time.process_time()
        run = contralens.label(target, folder, encoder, concepts, k=K, scorers=scorers, cache=cache, workers=1)
        labeled = time.process_time() - begin
        exemplars = exemplars_of(run)
        embeddings = torch.from_numpy(cached_rows(run, Store(cache), "encoder"))
    return {
        "neurons": exemplars.neurons,
        "positives": exemplars.positives,
        "labels": [row["label"] for row in run.rows("semanticlens")],
        "clarity": exemplar_statistics.clarity(exemplars, embeddings),
        "redundancy": exemplar_statistics.redundancy(exemplars, embeddings),
        "polysemanticity": exemplar_statistics.polysemanticity(exemplars, embeddings),
        "cpu": labeled,
    }


def compare(images: int) -> dict[str, Any]:
    """Both on one world, and where they differ."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_world(Path(folder), 1, images)
        pictures, concepts = Path(folder) / "images", vocabulary()
        paths = sorted(pictures.iterdir())
        encoder, target = contralens.encoder("world"), contralens.target("world:1", layer="block3")
        peer = theirs(paths, concepts, encoder, target)
        mine = ours(pictures, concepts, encoder, target, ["semanticlens"])
        all_scorers = ours(
            pictures, concepts, encoder, target, ["semanticlens", "clip_dissect", "csp:gamma=0.5", "csp"]
        )
    at = mine["neurons"]
    labels = [peer["labels"][n] for n in at.tolist()]
    same = [a == b for a, b in zip(labels, [x for x in mine["labels"] if x is not None], strict=True)]
    both = zip(peer["positives"][at].tolist(), mine["positives"].tolist(), strict=True)
    shared = sum(len(set(a) & set(b)) for a, b in both)
    return {
        "semanticlens": version("semanticlens"), "contralens": contralens.__version__,
        "python": platform.python_version(), "torch": torch.__version__, "images": images, "neurons": len(at), "k": K,
        "same exemplars": shared / (len(at) * K),
        "same labels": sum(same) / len(same),
        "median difference": {
            "clarity": float((peer["clarity"][at] - mine["clarity"]).abs().median()),
            "redundancy": abs(float(peer["redundancy"]) - float(mine["redundancy"].mean())),
            "polysemanticity": float((peer["polysemanticity"][at] - mine["polysemanticity"]).abs().median()),
        },
        "CPU seconds": {
            "semanticlens": peer["cpu"], "contralens": mine["cpu"], "contralens, 4 scorers": all_scorers["cpu"],
        },
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    print(json.dumps(compare(parser.parse_args().images), indent=1))
