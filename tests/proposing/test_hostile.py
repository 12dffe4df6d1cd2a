"""A hostile server, and a process killed at random moments: each neuron is answered or listed, no paid reply lost."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import processes
import pytest
from patience import HUNG
from propose_run import PixelEncoder, build_run
from propose_servers import completion, look_and_answer, looks, serving

from contralens.data.runs import Run, load
from contralens.proposing.candidates import Candidates
from contralens.proposing.propose import propose

TRICKS = (
    "429", "500", "500 for ever", "slow", "drip", "garbage", "half JSON", "wrong schema", "always wrong schema",
    "10 MB", "hang up", "no choices", "null", "refusal", "list", "deep", "not UTF-8", "gzip",
)  # fmt: skip
ANSWERED = {"429", "500", "wrong schema", "list"}


def hostile(handler: Any, body: dict[str, Any], before: int) -> None:
    """Each neuron's question meets another trick; which one is told by the neuron's own idempotency key."""
    key = handler.headers["Idempotency-Key"]
    server = handler.server
    with server.lock:
        tricks = server.__dict__.setdefault("tricks", {})
        trick = tricks.setdefault(key.removesuffix("-repair"), TRICKS[len(tricks) % len(TRICKS)])
    good = completion(look_and_answer(body))
    repair = len(body["messages"]) == 3
    if trick == "429" and before == 0:
        handler.reply(b"{}", 429, Retry_After="1")
    elif trick == "500" and before == 0:
        handler.reply(b"oops", 500)
    elif trick == "500 for ever":
        handler.reply(b"oops", 503, Retry_After="0.01")
    elif trick == "slow":
        time.sleep(4)
        handler.reply(good)
    elif trick == "drip":
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        for _ in range(60):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.1)
    elif trick == "garbage":
        handler.reply(b"<html>\x00 not what you wanted")
    elif trick == "half JSON":
        handler.reply(good[: len(good) // 2])
    elif trick == "wrong schema":
        handler.reply(good if repair else completion('{"labels": ["striped disc"]}'))
    elif trick == "always wrong schema":
        handler.reply(completion('{"concepts": "striped disc", "why": 1}'))
    elif trick == "10 MB":
        handler.reply(completion("x" * 10_000_000))
    elif trick == "hang up":
        handler.drop()
    elif trick == "no choices":
        handler.reply(b'{"choices": []}')
    elif trick == "null":
        handler.reply(b"null")
    elif trick == "refusal":
        handler.reply(completion("I cannot help with that."))
    elif trick == "list":
        parts = [{"type": "text", "text": look_and_answer(body)}]
        handler.reply(json.dumps({"choices": [{"message": {"content": parts}}], "usage": "much"}).encode())
    elif trick == "deep":
        handler.reply(b"[" * 200_000)
    elif trick == "not UTF-8":
        handler.reply(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}')
    elif trick == "gzip":
        handler.reply(b"not gzip at all", Content_Encoding="gzip")
    else:
        handler.reply(good)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build_run(tmp_path_factory.mktemp("many"), neurons=len(TRICKS))


def ask(run: Run, url: str, folder: Path, **options: Any) -> Candidates:
    return propose(run, f"openai:m@{url}", folder=folder, merge=None, show=4, proposer_options=options)


@pytest.mark.slow
def test_whatever_a_server_does_each_neuron_is_answered_or_listed(many: Run, tmp_path: Path) -> None:
    with serving(hostile) as server:
        found = ask(many, server.url, tmp_path, workers=9, timeout=1.5, retries=2)
        tricks = dict(server.tricks)  # type: ignore[attr-defined]
        asked = len(server.bodies)
    key_of = {p["neuron"]: p["reply"] for p in found.provenance}
    answered = {tricks[key] for key in key_of.values()}
    assert answered == ANSWERED
    assert {p["concept"] for p in found.provenance} == {"striped disc"}
    assert sorted([*key_of, *(e["neuron"] for e in found.errors)]) == list(range(len(TRICKS)))
    assert all(e["error"] and "\n" not in e["error"] and len(e["error"]) < 600 for e in found.errors)
    said = " | ".join(e["error"] for e in found.errors)
    for expected in ("503", "within 1.5 s", "longer than 4 MiB", "not a chat completion", "cannot be used"):
        assert expected in said
    assert sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) < 5e6
    with serving(looks) as server:
        again = ask(load(many.path), server.url, tmp_path / "other", workers=4)
        assert not again.errors
    assert asked < 100


def test_retry_after_is_honoured(small: Run, tmp_path: Path) -> None:
    times: list[float] = []

    def answer(handler: Any, body: dict[str, Any], before: int) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            handler.reply(b"{}", 429, Retry_After="1.2")
        else:
            looks(handler, body, before)

    with serving(answer) as server:
        found = propose(
            small, f"openai:m@{server.url}", folder=tmp_path, neurons=[0], encoder=PixelEncoder(),
            proposer_options={"retries": 2},
        )  # fmt: skip
    assert found.of(0) == ["striped disc"]
    assert times[1] - times[0] >= 1.2


SCRIPT = """
import sys
from contralens.proposing.propose import propose
propose(sys.argv[1], "openai:m@" + sys.argv[2], folder=sys.argv[3], merge=None, show=4, cell=112,
        proposer_options={"workers": int(sys.argv[4]), "retries": 0})
print("done")
"""


@pytest.mark.slow
def test_killed_at_ten_random_moments_no_paid_reply_is_lost(tmp_path: Path) -> None:
    """SIGKILL while questions fly. What was on the disk is never asked again; only what was under way at a kill is, at
    most as much as there are workers, and under the same idempotency key."""
    workers, neurons = 3, 40
    run = build_run(tmp_path, per_kind=20, neurons=neurons)
    folder = tmp_path / "run.candidates"
    lock = threading.Lock()
    asked: Counter[str] = Counter()
    answered: Counter[str] = Counter()

    def answer(handler: Any, body: dict[str, Any], before: int) -> None:
        key = handler.headers["Idempotency-Key"]
        with lock:
            asked[key] += 1
        time.sleep(0.06)
        handler.reply(completion(look_and_answer(body)))
        with lock:
            answered[key] += 1

    rng = random.Random(20261123)
    env = {**os.environ, "CONTRALENS_API_KEY": "sk-kill-4242", "CONTRALENS_CACHE": str(tmp_path / "cache")}
    kept: set[str] = set()
    kills = 0
    with serving(answer) as server:
        command = [SCRIPT, run.path, server.url, folder, workers]
        while kills < 10:
            start = sum(asked.values())
            process = processes.Started(processes.code, *command, env=env)
            while sum(asked.values()) < start + 1 and process.poll() is None:
                time.sleep(0.005)
            time.sleep(rng.uniform(0.0, 0.1))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()
            time.sleep(0.15)  # answers that were under way end
            kills += 1
            on_disk = {p.stem for p in (folder / "replies").glob("[!.]*.json")}
            assert kept <= on_disk
            kept = on_disk
            for path in (folder / "replies").glob("[!.]*.json"):
                assert json.loads(path.read_text())["concepts"] == ["striped disc"]
        before = dict(asked)
        assert len(kept) < neurons  # the kills came while there was work
        end = processes.run(processes.code, *command, env=env)
        assert end.stdout.strip() == "done", end.stderr
    assert all(asked[key] == before[key] for key in kept)  # what is on the disk is never asked again
    assert len(asked) == neurons
    repeated = sum(times - 1 for times in asked.values())
    assert repeated <= workers * kills  # only what was under way at a kill
    found = json.loads((folder / "candidates.json").read_text())
    assert {p["neuron"] for p in found["provenance"]} == set(range(neurons))
    plan = found["manifest"]["plan"]
    assert plan["lost"] <= workers * kills
    assert plan["lost"] >= repeated - workers  # and the ledger knows of them
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sk-kill-4242" not in path.read_bytes()


def test_ctrl_c_keeps_what_was_under_way(tmp_path: Path) -> None:
    run = build_run(tmp_path, neurons=12)
    folder = tmp_path / "c"
    begun = threading.Event()

    def answer(handler: Any, body: dict[str, Any], before: int) -> None:
        begun.set()
        time.sleep(0.4)
        looks(handler, body, before)

    with serving(answer) as server:
        script = SCRIPT.replace(
            "import sys", "import sys, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        )
        process = processes.Started(processes.code, script, run.path, server.url, folder, 3)
        assert begun.wait(60)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=HUNG)
        assert "KeyboardInterrupt" in err
        assert 3 <= len(server.bodies) < 12
        assert len(list((folder / "replies").iterdir())) == len(server.bodies)
