"""What contrastive partners add to a vision-language model's proposals, where the truth is known.

Planted neurons of the demo's three worlds (192), whose true concept is written down. Each is asked about twice, with
the prompt "positives" and with "contrastive"; the shares of neurons whose true concept is named first, or at all, and
whose label by CSP is right when only proposed concepts are there to choose from, are compared over the same neurons.
Four neurons share a concept and all share the images, so intervals resample concepts (48 over the worlds), not neurons.

    python benchmarks/proposals.py OUT                              # a server that looks with the world's encoder
    python benchmarks/proposals.py OUT --proposer openai:MODEL@URL  # a real model (prints its plan first)
    python benchmarks/proposals.py OUT --proposer captions          # the caption bank, no model

Without --proposer the questions go over HTTP to a server in this process that answers from the pixels of the grids it
is sent: it cuts each grid into its cells, reads every cell with the world's image-text encoder (factor by factor, as
probabilities over the factor's levels), and names the three levels with the highest mean probability over the cells of
the first grid, less that over the second where there is one. It stands in for a model that sees well and follows the
instruction exactly; it is an upper line for what the prompt itself can add, not a measurement of any real model.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from contralens import label
from contralens.bench.world_images import score_labels, write_world
from contralens.data.pictures import GAP
from contralens.encoders.registry import embed_texts
from contralens.math.intervals import mean_interval
from contralens.proposing.propose import propose
from contralens.world.captions import captions, concept_text
from contralens.world.encoder import load_encoder
from contralens.world.planted import PlantedTarget
from contralens.world.scenes import FACTORS, sample_scenes
from contralens.world.targets import WORLDS

CELL = 112
PROMPTS = ("positives", "contrastive")
OWN, ALL = "label, of its own proposals", "label, of all proposals"
"""The vocabulary is the proposals alone (with "picture" and "image" where each neuron has only its own)."""


class Looker:
    """Reads the cells of a grid with the world's encoder; not safe for threads, so one question at a time."""

    def __init__(self) -> None:
        self.encoder = load_encoder()
        self.names = [(f, name) for f, levels in FACTORS.items() for name in levels]
        self.texts = embed_texts(self.encoder, [concept_text(f, name) for f, name in self.names])
        self.lock = threading.Lock()

    def levels(self, grid: Image.Image) -> NDArray[np.float64]:
        """Mean probability of each level over the cells of a grid."""
        step, cells = CELL + GAP, []
        for top in range(0, grid.height, step):
            for left in range(0, grid.width, step):
                cell = grid.crop((left, top, left + CELL, top + CELL))
                if np.asarray(cell).min() < 230:  # a place without an image is white paper
                    cells.append(self.encoder.preprocess(cell.resize((96, 96), Image.Resampling.LANCZOS)))
        with self.lock, torch.inference_mode():
            logits = self.encoder(torch.stack(cells)) @ self.texts.T / 0.07
        factors = np.array([list(FACTORS).index(f) for f, _ in self.names])
        out = np.zeros(len(self.names))
        for factor in range(len(FACTORS)):
            own = factors == factor
            out[own] = logits[:, own].double().softmax(1).mean(0).numpy()
        return out

    def answer(self, body: dict[str, Any]) -> str:
        """What is in the first grid and not in the second, the surest first."""
        urls = [p["image_url"]["url"] for p in body["messages"][0]["content"] if p["type"] == "image_url"]
        grids = [Image.open(io.BytesIO(base64.b64decode(u.partition(",")[2]))).convert("RGB") for u in urls]
        score = self.levels(grids[0]) - (self.levels(grids[1]) if len(grids) > 1 else 0.0)
        best = np.argsort(-score, kind="stable")[:3]
        return json.dumps({"concepts": [concept_text(*self.names[i]) for i in best]})


def serve(looker: Looker) -> ThreadingHTTPServer:
    """A chat-completions server on the loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            message = {"role": "assistant", "content": looker.answer(body)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            data = json.dumps({"object": "chat.completion", "model": "looker", "choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def measure(out: Path, world: int, proposer: str, images: int, seed: int) -> dict[str, NDArray[Any]]:
    """The concept of each planted neuron of a world, and by prompt and measure 1 or 0 for each."""
    folder = out / f"world-{world}-{seed}"
    scenes, pictures = write_world(folder, world, images, seed)
    target = PlantedTarget(world, scenes, pictures)
    common: dict[str, Any] = {"cache": out / "cache"}
    encoder = load_encoder()
    run = label(
        target, folder / "images", encoder, folder / "vocabulary.txt", scorers="csp", out=folder / "run", **common
    )
    if proposer == "captions":
        (folder / "captions.txt").write_text("\n".join(captions(sample_scenes(3000, 4242), 7)) + "\n")
        proposer = f"captions:{folder / 'captions.txt'}"
    neurons = range(len(target.truth))
    right = {}
    for prompt in PROMPTS:
        found = propose(
            run, proposer, prompt=prompt, images=folder / "images", cell=CELL, encoder=encoder, merge=None,
            folder=folder / prompt, on_plan=lambda plan: print(*plan.lines(), sep="\n"),
            proposer_options={"workers": 1} if proposer.startswith("openai:") else None, **common,
        )  # fmt: skip
        named = [found.of(n) for n in neurons]
        right[f"{prompt}: named first"] = score_labels([(c or [None])[0] for c in named], target.truth)
        places = [[(c + [None] * 8)[i] for c in named] for i in range(8)]
        right[f"{prompt}: named at all"] = np.any([score_labels(c, target.truth) for c in places], axis=0)
        chosen = label(target, folder / "images", encoder, found.concepts, scorers="csp", **common)
        own = label(
            target, folder / "images", encoder, ["picture", "image"], scorers="csp", candidates=found, own_only=True,
            **common,
        )  # fmt: skip
        for what, labeled in ((ALL, chosen), (OWN, own)):
            labels = {row["neuron"]: row["label"] for row in labeled.rows()}
            right[f"{prompt}: {what}"] = score_labels([labels.get(n) for n in neurons], target.truth)
    concept = [f"{world} {truth.levels[0]}" for truth in target.truth]
    return {"concept": np.array(concept), **{name: values.astype(float) for name, values in right.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write: worlds, replies, proposals.json")
    parser.add_argument("--proposer", help="openai:MODEL@URL, hf:MODEL or captions; default: the looking server")
    parser.add_argument("--images", type=int, default=2000, help="probe images of a world")
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 6], help="of the probe scenes")
    args = parser.parse_args()
    server = None
    proposer = args.proposer
    if proposer is None:
        server = serve(Looker())
        proposer = f"openai:looker@http://127.0.0.1:{server.server_address[1]}/v1"
    parts = {(w, seed): measure(args.out, w, proposer, args.images, seed) for seed in args.seeds for w in WORLDS}
    rows = []
    for what in ("named first", "named at all", OWN, ALL):
        for group in [*WORLDS, None]:
            own = [part for (w, _), part in parts.items() if group in (w, None)]
            one, two = (np.concatenate([p[f"{prompt}: {what}"] for p in own]) for prompt in PROMPTS)
            concept = np.concatenate([p["concept"] for p in own])
            known = np.unique(concept)
            per_concept = [np.array([part[concept == c].mean() for c in known]) for part in (one, two, two - one)]
            alone, both, gain = map(mean_interval, per_concept)
            rows.append(
                {
                    "what": what, "world": group, "neurons": len(one), "concepts": len(known),
                    "positives": alone.mean, "positives interval": (alone.low, alone.high),
                    "contrastive": both.mean, "contrastive interval": (both.low, both.high),
                    "gain": gain.mean, "gain interval": (gain.low, gain.high),
                    "won": int((two > one).sum()), "lost": int((two < one).sum()),
                }
            )  # fmt: skip
            told = [f"{name} {i.mean:.3f} ({i.low:.3f} to {i.high:.3f})" for name, i in
                    (("positives", alone), ("contrastive", both), ("gain", gain))]  # fmt: skip
            print(f"{what:32} world {group or 'all':>3}: ", *told, f"won {rows[-1]['won']} lost {rows[-1]['lost']}")
    settings = {"proposer": args.proposer or "looker", "images": args.images, "seeds": args.seeds}
    (args.out / "proposals.json").write_text(json.dumps({**settings, "rows": rows}, indent=1) + "\n")
    if server is not None:
        server.shutdown()


if __name__ == "__main__":
    main()
