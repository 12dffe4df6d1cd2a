"""`hf:MODEL`: a vision-language model run here, through transformers' AutoModelForImageTextToText and chat template."""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from contralens.checks import first_line, require, unavailable
from contralens.errors import InputError
from contralens.proposing.proposers import ProposerError, Reply, Request

PROPOSER_VERSION = "hf-1"


def load(
    rest: str,
    *,
    batch: int = 4,
    device: str = "cpu",
    dtype: str = "auto",
    constrained: bool | None = None,
    trust_remote_code: bool = False,
) -> HuggingFaceProposer:
    """The loader of "hf:": a model's id, or a folder with its files.

    Args:
        rest: what follows "hf:".
        batch: questions answered in one pass.
        device: e.g. "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto" (bfloat16 on a GPU, float32 on the CPU), "float32", "bfloat16" or "float16".
        constrained: hold answers to the schema with xgrammar; by default where it is installed.
        trust_remote_code: run code that comes with the model.
    """
    if not rest:
        raise InputError("hf: needs a model's id or a folder, e.g. hf:HuggingFaceTB/SmolVLM-500M-Instruct")
    if batch < 1:
        raise InputError(f"`batch` must be at least 1; got {batch}")
    if dtype not in ("auto", "float32", "bfloat16", "bf16", "float16"):
        raise InputError(f"`dtype` must be auto, float32, bfloat16 or float16; got {dtype!r}")
    dtype = {"bf16": "bfloat16", "auto": "bfloat16" if device.startswith("cuda") else "float32"}.get(dtype, dtype)
    if constrained is None:
        import importlib.util

        constrained = importlib.util.find_spec("xgrammar") is not None
    elif constrained:
        require("xgrammar", "vlm")
    return HuggingFaceProposer(rest, batch, device, dtype, constrained, trust_remote_code)


class HuggingFaceProposer:
    """A model on this machine, loaded when it is first asked; made by `load`. Answers greedily."""

    workers = 1

    def __init__(
        self, source: str, batch: int, device: str, dtype: str, constrained: bool, trust_remote_code: bool
    ) -> None:
        self.name = f"hf:{source}"
        self.source, self.batch, self.device, self.dtype = source, batch, device, dtype
        self.constrained, self.trust_remote_code = constrained, trust_remote_code
        self._lock = threading.Lock()
        self._grammars: dict[str, Any] = {}
        self._transformers = require("transformers", "vlm")

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the model's files (of its commit, where it comes from a hub) and of how it answers."""
        folder = Path(self.source).expanduser()
        out = hashlib.sha256(f"{PROPOSER_VERSION} {self.dtype} {self.constrained}".encode())
        if folder.is_dir():
            for file in sorted(folder.iterdir()):
                if file.is_file() and not file.name.startswith("."):
                    with file.open("rb") as f:
                        out.update(f"{file.name} {hashlib.file_digest(f, 'sha256').hexdigest()}\n".encode())
        else:
            config = self._got(self._transformers.AutoConfig)
            commit = getattr(config, "_commit_hash", None)
            out.update(f"{self.source} {commit or 'unknown commit'}".encode())
        return out.hexdigest()[:32]

    def _got(self, kind: Any, **options: Any) -> Any:
        source = str(Path(self.source).expanduser()) if Path(self.source).expanduser().is_dir() else self.source
        try:
            return kind.from_pretrained(source, trust_remote_code=self.trust_remote_code, **options)
        except (OSError, ValueError, KeyError, ImportError) as e:
            raise unavailable(f"{self.name} cannot be loaded as a vision-language model: {first_line(e)}", e) from e

    @cached_property
    def _processor(self) -> Any:
        processor = self._got(self._transformers.AutoProcessor)
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None or not hasattr(processor, "apply_chat_template"):
            raise InputError(f"{self.name} has no processor for images and text; it is not a vision-language model")
        if not (getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)):
            raise InputError(f"{self.name} has no chat template; take the instruction-tuned model")
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return processor

    @cached_property
    def _model(self) -> Any:
        import torch

        model = self._got(self._transformers.AutoModelForImageTextToText, dtype=getattr(torch, self.dtype))
        try:
            return model.to(self.device).eval()
        except (RuntimeError, AssertionError) as e:
            raise InputError(f"{self.name} cannot be put on device {self.device!r}: {first_line(e)}") from e

    def ask(self, requests: Sequence[Request]) -> list[Reply | ProposerError]:
        """Answers to one batch of questions, in one pass."""
        import torch

        if not requests:
            return []
        with self._lock, torch.inference_mode():
            try:
                return list(self._answers(requests))
            except torch.OutOfMemoryError as e:
                raise InputError(
                    f"{self.name} ran out of memory on {len(requests)} questions at once; lower the batch"
                ) from e

    def _answers(self, requests: Sequence[Request]) -> list[Reply]:
        processor, model = self._processor, self._model
        takes = inspect.signature(processor.apply_chat_template).parameters
        padding: dict[str, Any] = {"padding": True}
        inputs = processor.apply_chat_template(
            [_conversation(request) for request in requests],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **({"processor_kwargs": padding} if "processor_kwargs" in takes else padding),
        )
        inputs = inputs.to(self.device, dtype=model.dtype)
        start = inputs["input_ids"].shape[1]
        most = max(request.max_tokens for request in requests)
        processors = [self._grammar(requests[0].schema)] if self.constrained else None
        output = model.generate(
            **inputs,
            max_new_tokens=most,
            do_sample=False,
            logits_processor=processors,
            pad_token_id=processor.tokenizer.pad_token_id,
        )
        answers = output[:, start:]
        texts = processor.tokenizer.batch_decode(answers, skip_special_tokens=True)
        read = inputs["attention_mask"].sum(1).tolist()
        written = (answers != processor.tokenizer.pad_token_id).sum(1).tolist()
        return [Reply(t, r, w, self.source) for t, r, w in zip(texts, read, written, strict=True)]

    def _grammar(self, schema: Any) -> Any:
        """A fresh xgrammar logits processor for one call of generate; the compiled grammar is kept."""
        xgrammar = require("xgrammar", "vlm")
        key = json.dumps(schema, sort_keys=True)
        if key not in self._grammars:
            config = self._model.config
            size = getattr(config.get_text_config(), "vocab_size", None) or len(self._processor.tokenizer)
            stop = self._model.generation_config.eos_token_id
            about = xgrammar.TokenizerInfo.from_huggingface(
                self._processor.tokenizer, vocab_size=size, stop_token_ids=stop
            )
            self._grammars[key] = xgrammar.GrammarCompiler(about).compile_json_schema(key, any_whitespace=False)
        return xgrammar.contrib.hf.LogitsProcessor(self._grammars[key])


def _conversation(request: Request) -> list[dict[str, Any]]:
    from PIL import Image

    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": Image.open(io.BytesIO(part)).convert("RGB")}
        for part in request.parts
    ]
    turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if request.bad:
        turns += [
            {"role": "assistant", "content": [{"type": "text", "text": request.bad[0]}]},
            {"role": "user", "content": [{"type": "text", "text": request.bad[1]}]},
        ]
    return turns
