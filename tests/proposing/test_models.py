"""Real vision-language models with random weights: in process, batched and held to the schema; and over `transformers
serve`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from patience import HUNG
from PIL import Image
from propose_run import PixelEncoder

from contralens.data.pictures import jpeg
from contralens.data.runs import Run
from contralens.errors import InputError, ModelUnavailable
from contralens.proposing.prompts import parse_reply, schema
from contralens.proposing.propose import propose
from contralens.proposing.proposers import Proposer, Reply, Request, proposer

pytest.importorskip("transformers")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
from tiny_vlms import TINY


@pytest.fixture(scope="module", params=list(TINY))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "SmolVLM":
        pytest.importorskip("num2words")
    return TINY[request.param](tmp_path_factory.mktemp("tiny") / request.param)


def question(*colours: str, most: int = 400) -> Request:
    pictures = [jpeg(Image.new("RGB", (228, 228), colour)) for colour in colours]
    parts = [piece for picture in pictures for piece in ("look", picture)]
    return Request((*parts, "what is it?"), schema(2), most)


def test_batches_of_questions_with_several_pictures_held_to_the_schema(tiny: Path) -> None:
    pytest.importorskip("xgrammar")
    model = proposer(f"hf:{tiny}", batch=3, constrained=True)
    assert isinstance(model, Proposer)
    replies = model.ask([question("red", "blue"), question("green"), question("red")])
    assert len(replies) == 3
    for reply in replies:
        assert isinstance(reply, Reply)
        value = json.loads(reply.text, strict=False)
        assert list(value) == ["concepts"]
        assert 1 <= len(value["concepts"]) <= 2
        assert all(0 < len(c) <= 80 for c in value["concepts"])
        assert reply.input_tokens > 10
        assert reply.output_tokens > 5
    alone = model.ask([question("green")])[0]
    assert isinstance(alone, Reply)
    repaired = model.ask([question("green").repair("red!", "not JSON")])[0]
    assert isinstance(repaired, Reply)
    assert repaired.input_tokens > alone.input_tokens
    assert proposer(f"hf:{tiny}", constrained=True).fingerprint == model.fingerprint
    assert proposer(f"hf:{tiny}", constrained=False).fingerprint != model.fingerprint


def test_bfloat16(tiny: Path) -> None:
    reply = proposer(f"hf:{tiny}", constrained=False, dtype="bf16").ask([question("red", most=8)])[0]
    assert isinstance(reply, Reply)
    with pytest.raises(ValueError, match="it is"):
        parse_reply(reply.text, 2, 4)


def test_a_run_with_a_local_model(small: Run, tmp_path: Path) -> None:
    pytest.importorskip("xgrammar")
    folder = TINY["Qwen2.5-VL"](tmp_path / "model")
    ask = {"encoder": PixelEncoder(), "show": 4, "cell": 112, "words": 80, "max_tokens": 400, "merge": None}
    held = propose(
        small, f"hf:{folder}", folder=tmp_path / "a", proposer_options={"constrained": True, "batch": 2}, **ask
    )
    assert {p["neuron"] for p in held.provenance} | {e["neuron"] for e in held.errors} == {0, 1, 2}
    assert all("no concept in it" in e["error"] for e in held.errors)  # JSON as asked for, though random words
    free = propose(
        small,
        f"hf:{folder}",
        folder=tmp_path / "b",
        proposer_options={"constrained": False},
        **{**ask, "max_tokens": 20},
    )
    assert [e["neuron"] for e in free.errors] == [0, 1, 2]  # random text is an error, never a label
    assert not free.concepts
    assert free.manifest["usage"]["repairs"] == 3


def test_what_is_no_vision_language_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        proposer(f"hf:{tmp_path}").ask([question("red")])
    with pytest.raises(InputError, match="has no option 'wrkers'; did you mean workers"):
        proposer("openai:m@http://x/v1", wrkers=3)


@pytest.mark.slow
def test_transformers_serve_over_real_http(small: Run, tmp_path: Path) -> None:
    command = shutil.which("transformers", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("the transformers command is not installed")
    pytest.importorskip("uvicorn")
    pytest.importorskip("fastapi")
    folder = TINY["Qwen2.5-VL"](tmp_path / "model")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    log = (tmp_path / "serve.log").open("w")
    server = subprocess.Popen(
        [command, "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        env=env, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + HUNG
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2).read()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "serve.log").read_text()[-2000:]
                assert time.monotonic() < until, (tmp_path / "serve.log").read_text()[-2000:]
                time.sleep(0.3)
        found = propose(
            small, f"openai:{folder}@{url}/v1", folder=tmp_path / "c", show=2, layout="separate", cell=112, merge=None,
            max_tokens=24, proposer_options={"workers": 1, "timeout": HUNG, "retries": 1},
        )  # fmt: skip
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        log.close()
    answered = {p["neuron"] for p in found.provenance}
    failed = {e["neuron"]: e["error"] for e in found.errors}
    assert answered | set(failed) == {0, 1, 2}
    replies = list((tmp_path / "c" / "replies").glob("*.json"))
    assert len(replies) == 3, failed  # the server did answer: random text, recorded as an error
    assert all("cannot be used" in e for e in failed.values())
    told = json.loads(replies[0].read_text())
    assert len(told["pictures"]) == 4
