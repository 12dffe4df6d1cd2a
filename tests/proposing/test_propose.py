"""Proposing end to end against a real HTTP server that looks at the pixels; plan, budget, cache, dry run, keys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from patience import HUNG
from PIL import Image
from propose_run import PixelEncoder, build_run
from propose_servers import completion, looks, serving, slowly

from contralens.data.runs import Run
from contralens.errors import InputError
from contralens.proposing.candidates import Candidates, load_candidates
from contralens.proposing.propose import propose

FAST = {"timeout": HUNG, "retries": 1}


def ask(run: Run, url: str, folder: Path, **options: object) -> Candidates:
    backend = {**FAST, **options.pop("proposer_options", {})}  # type: ignore[dict-item]
    return propose(
        run, f"openai:looker@{url}", folder=folder, encoder=PixelEncoder(), proposer_options=backend, **options
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("full", [True, False], ids=["full size", "thumbnails"])
@pytest.mark.parametrize("layout", ["grids", "separate"])
def test_contrast_recovers_the_planted_texture_where_positives_name_the_shared_colour(
    small: Run, tmp_path: Path, full: bool, layout: str
) -> None:
    images = small.manifest["images"]["name"] if full else None
    with serving(looks) as server:
        both = ask(
            small, server.url, tmp_path / "both", images=images, show=4 if layout == "grids" else 1, layout=layout
        )
        alone = ask(
            small, server.url, tmp_path / "alone", images=images, prompt="positives",
            show=4 if layout == "grids" else 1, layout=layout,
        )  # fmt: skip
    assert [both.of(n) for n in range(3)] == [["striped disc"]] * 3
    assert [alone.of(n) for n in range(3)] == [["red disc"], ["green disc"], ["blue disc"]]
    assert not both.errors
    assert not alone.errors


def test_candidates_keep_their_provenance_and_the_pictures_that_were_sent(small: Run, tmp_path: Path) -> None:
    with serving(looks) as server:
        found = ask(small, server.url, tmp_path, show=4)
        sent = server.bodies
    assert found.concepts == ["striped disc"]
    sources = found.sources("Striped disc")
    assert [s["neuron"] for s in sources] == [0, 1, 2]
    assert {s["prompt"] for s in sources} == {"contrastive"}
    assert {s["model"] for s in sources} == {f"openai:looker@{server.url}"}
    record = json.loads((tmp_path / "replies" / f"{sources[0]['reply']}.json").read_text())
    assert record["served"] == "served-model"
    assert [p["group"] for p in record["pictures"]] == ["positives", "contrasts"]
    assert all("striped" in name for name in record["pictures"][0]["images"])
    assert all("plain" in name for name in record["pictures"][1]["images"])
    import base64

    urls = [
        part["image_url"]["url"]
        for body in sent
        for part in body["messages"][0]["content"]
        if part["type"] == "image_url"
    ]
    kept = {base64.b64encode(p.read_bytes()).decode() for p in (tmp_path / "pictures").iterdir()}
    assert {u.partition(",")[2] for u in urls} == kept
    again = load_candidates(tmp_path)
    assert again == found
    assert again.table().num_rows == 3
    assert found.join(["red", "Striped Disc"]) == ["red", "Striped Disc"]
    assert found.join(["red", "blue"]) == ["red", "blue", "striped disc"]
    assert found.allowed(["red", "blue"], [0, 7]).tolist() == [[True, True, True], [True, True, False]]


def test_nothing_is_asked_twice(small: Run, tmp_path: Path) -> None:
    with serving(looks) as server:
        first = ask(small, server.url, tmp_path)
        plans = []
        second = ask(small, server.url, tmp_path, on_plan=plans.append)
        assert len(server.bodies) == 3
        assert first.provenance == second.provenance
        assert (plans[0].requests, plans[0].answered, plans[0].measured) == (0, 3, True)
        ask(small, server.url, tmp_path, domain="toys")
        assert len(server.bodies) == 6  # another question


def test_a_dry_run_shows_the_plan_and_one_question_and_asks_nothing(small: Run, tmp_path: Path) -> None:
    plans = []
    found = propose(
        small, "openai:m@http://127.0.0.1:9/v1", folder=tmp_path, dry_run=True, on_plan=plans.append,
        price=(2.0, 10.0), budget=3.0, show=4, cell=112,
    )  # fmt: skip
    example = found.manifest["dry_run"]
    assert "Group B" in example["text"]
    assert "[0-positives.jpg]" in example["text"]
    assert [Image.open(p).size for p in example["pictures"]] == [(228, 228)] * 2
    assert (tmp_path / "dry-run" / "prompt.txt").read_text().strip() == example["text"]
    plan = plans[0]
    assert (plan.neurons, plan.requests, plan.pictures, plan.images) == (3, 3, 6, 24)
    assert plan.cost == pytest.approx((plan.input_tokens * 2 + 3 * 256 * 10) / 1e6)
    assert "cap 3.00" in "\n".join(plan.lines())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dry-run"]


def test_the_budget_stops_asking_and_the_rest_is_listed(tmp_path: Path) -> None:
    run = build_run(tmp_path, neurons=6)
    with serving(looks) as server:
        one = {"proposer_options": {"workers": 2}, "price": (10.0, 10.0)}
        plans = []
        found = ask(run, server.url, tmp_path / "c", budget=0.025, on_plan=plans.append, **one)
        assert 0 < len(server.bodies) < 6
        assert found.manifest["usage"]["spent"] <= 0.025
        assert len(found.errors) == 6 - len(server.bodies)
        assert "budget" in found.errors[0]["error"]
        more = ask(run, server.url, tmp_path / "c", budget=10.0, on_plan=plans.append, **one)
        assert plans[1].spent == pytest.approx(found.manifest["usage"]["spent"])
        assert not more.errors
        assert len(server.bodies) == 6
    with pytest.raises(InputError, match="needs a price"):
        ask(run, server.url, tmp_path / "c", budget=1.0)


def test_never_more_questions_at_once_than_workers(tmp_path: Path) -> None:
    run = build_run(tmp_path, neurons=9)
    with serving(slowly(0.05)) as server:
        found = ask(run, server.url, tmp_path / "c", proposer_options={"workers": 3})
        assert server.most_at_once == 3
        assert not found.errors


def test_an_unusable_answer_is_repaired_once_then_recorded(small: Run, tmp_path: Path) -> None:
    def answer(handler, body, before):  # type: ignore[no-untyped-def]
        text = json.dumps(body)
        if "red-" in text or len(body["messages"]) == 1:
            handler.reply(completion("Sure! It is a disc with stripes."))
        else:
            assert body["messages"][1] == {"role": "assistant", "content": "Sure! It is a disc with stripes."}
            assert "not JSON" in body["messages"][2]["content"]
            handler.reply(completion('{"concepts": ["Striped Thing"]}' if len(server.bodies) == 4 else "no"))

    with serving(answer) as server:
        found = ask(small, server.url, tmp_path, proposer_options={"workers": 1})
        assert len(server.bodies) == 6
        assert found.concepts == ["striped thing"] or not found.concepts
        assert len(found.errors) == 3 - len({p["neuron"] for p in found.provenance})
        assert all("cannot be used" in e["error"] for e in found.errors)
        ask(small, server.url, tmp_path)
        assert len(server.bodies) == 6  # final, also where it failed
    assert "sure" not in json.dumps(found.to_json()["provenance"]).lower()


def test_near_copies_are_not_shown_twice(tmp_path: Path) -> None:
    run = build_run(tmp_path, cache=tmp_path / "cache")
    told = propose(
        run,
        "openai:m@http://127.0.0.1:9/v1",
        folder=tmp_path / "a",
        dry_run=True,
        cache=tmp_path / "cache",
        alike=0.999,
    ).manifest["dry_run"]["shown"]
    assert [len(t["images"]) for t in told] == [1, 1]  # to this encoder all discs of a kind are one
    told = propose(
        run, "openai:m@http://127.0.0.1:9/v1", folder=tmp_path / "a", dry_run=True, cache=tmp_path / "cache", alike=1.0
    ).manifest["dry_run"]["shown"]
    assert [len(t["images"]) for t in told] == [8, 8]


def test_the_key_is_sent_to_its_server_only_and_stands_nowhere_on_the_disk(
    small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key, other = "sk-own-4711-secret", "sk-openai-0815-secret"
    monkeypatch.setenv("CONTRALENS_API_KEY", key)
    monkeypatch.setenv("OPENAI_API_KEY", other)
    monkeypatch.setenv("OPENAI_LOG", "debug")

    def answer(handler, body, before):  # type: ignore[no-untyped-def]
        sent = handler.headers["Authorization"]
        if len(server.bodies) == 1:
            handler.reply(json.dumps({"error": {"message": f"bad key {sent}"}}).encode(), 418)
        elif len(server.bodies) == 2:
            handler.reply(f"<html>{sent}".encode())
        else:
            handler.reply(completion(json.dumps({"concepts": [f"striped {sent}"]}), model=sent))

    with serving(answer) as server:
        found = ask(small, server.url, tmp_path, proposer_options={"workers": 1, "retries": 0})
        assert {h["authorization"] for h in server.headers} == {f"Bearer {key}"}
    assert len(found.errors) == 2
    out = capsys.readouterr()
    everything = out.out + out.err + json.dumps(found.to_json())
    for path in [*tmp_path.rglob("*"), *Path(str(small.path)).rglob("*")]:
        if path.is_file():
            everything += path.read_bytes().decode("latin-1")
    assert key not in everything
    assert other not in everything


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("openai:m@http://user:secret@host/v1", "never into the URL"),
        ("openai:m@http://host/v1?api_key=secret", "never into the URL"),
        ("openai:@http://host/v1", "MODEL@URL"),
        ("opnai:m", "did you mean openai"),
        ("captions:", "needs a file"),
        ("hf:", "needs a model"),
    ],
)
def test_bad_proposers_are_refused_in_one_line_without_secrets(spec: str, says: str) -> None:
    from contralens.proposing.proposers import proposer

    with pytest.raises(InputError, match=says) as error:
        proposer(spec)
    assert "secret" not in str(error.value)


def test_a_wrong_key_or_an_absent_server_stops_at_once(tmp_path: Path) -> None:
    run = build_run(tmp_path, neurons=9)

    def refuse(handler, body, before):  # type: ignore[no-untyped-def]
        handler.reply(b'{"error": {"message": "who are you?"}}', 401)

    with serving(refuse) as server:
        found = ask(run, server.url, tmp_path / "a", proposer_options={"workers": 2})
        assert len(server.bodies) <= 2
    assert len(found.errors) == 9
    assert "who are you" in found.errors[-1]["error"]
    found = ask(run, server.url, tmp_path / "b", proposer_options={"workers": 2, "retries": 0})
    assert len(found.errors) == 9
    assert "no connection" in found.errors[0]["error"]


def test_settings_that_a_server_does_not_know_are_left_out(small: Run, tmp_path: Path) -> None:
    def picky(handler, body, before):  # type: ignore[no-untyped-def]
        for name in ("response_format", "temperature"):
            if name in body:
                handler.reply(json.dumps({"error": {"message": f"unknown field {name}"}}).encode(), 400)
                return
        looks(handler, body, before)

    with serving(picky) as server:
        found = ask(small, server.url, tmp_path)
        first = server.bodies[0]
    assert not found.errors
    assert first["response_format"]["json_schema"]["schema"]["properties"]["concepts"]["maxItems"] == 3
    assert first["max_tokens"] == 256


def test_an_own_template_with_hint_and_numbers(small: Run, tmp_path: Path) -> None:
    template = tmp_path / "mine.txt"
    template.write_text(
        '{domain} Name {count} of at most {words} words: {positives} not {contrasts} as {"concepts": []}'
    )
    with serving(looks) as server:
        found = ask(small, server.url, tmp_path / "c", prompt=template, count=2, words=3, domain="toys")
        text = " ".join(p.get("text", "") for p in server.bodies[0]["messages"][0]["content"])
    assert text.startswith("The domain is: toys. Name 2 of at most 3 words: (8 images")
    assert text.endswith('as {"concepts": []}')
    assert {p["prompt"] for p in found.provenance} == {"mine"}
    template.write_text("Name it: {contrasts}")
    with pytest.raises(InputError, match="has no"):
        ask(small, server.url, tmp_path / "c", prompt=template)


def test_focus_crops_to_where_the_neuron_fires(tmp_path: Path) -> None:
    import torch

    from contralens.data.runs import load
    from contralens.models.targets import target

    run = build_run(tmp_path)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1, bias=False), torch.nn.ReLU())
    with torch.no_grad():
        net[0].weight.copy_((3 * torch.eye(3) - 1).reshape(3, 3, 1, 1) - 0.6 * torch.eye(3).reshape(3, 3, 1, 1))
    seer = target(net, layer="1", preprocess="resize=64,crop=64,mean=none,std=none", pooling="mean")
    manifest = {**run.manifest, "target": {**run.manifest["target"], "fingerprint": seer.fingerprint}}
    run = replace(run, manifest=manifest).save(tmp_path / "run")
    sizes = {}
    for focus in ("crop", "mask", None):
        found = propose(
            load(run.path), "openai:m@http://127.0.0.1:9/v1", folder=tmp_path / str(focus), dry_run=True, show=1,
            layout="separate", images=tmp_path / "images", focus=focus, target=seer if focus else None, neurons=[0],
        )  # fmt: skip
        import numpy as np

        with Image.open(found.manifest["dry_run"]["pictures"][0]) as image:
            pixels = np.asarray(image, np.float32)
        sizes[focus] = float((pixels.max(2) - pixels.min(2) > 30).mean())
        if focus == "mask":
            assert abs(pixels[2, 2] - 128).max() < 12  # the ground is grey, not light
    assert sizes["crop"] > 1.3 * sizes[None]
    assert sizes["mask"] == pytest.approx(sizes[None], rel=0.2)
    seer.fingerprint = "x"
    with pytest.raises(InputError, match="another one"):
        propose(run, "openai:m@http://127.0.0.1:9/v1", images=tmp_path / "images", focus="crop", target=seer)


def test_the_command_line(small: Run, tmp_path: Path) -> None:
    import typer
    from typer.testing import CliRunner

    from contralens.commands.propose import propose_command

    app = typer.Typer()
    app.command("propose")(propose_command)
    runner = CliRunner()
    with serving(looks) as server:
        base = [str(small.path), "--proposer", f"openai:m@{server.url}", "--out", str(tmp_path), "--merge", "0"]
        shown = runner.invoke(app, [*base, "--dry-run"], catch_exceptions=False)
        assert "3 questions to ask" in shown.output
        assert "Group A" in shown.output
        assert not server.bodies
        made = runner.invoke(app, base, catch_exceptions=False)
        assert "1 candidate for 3 neurons" in made.output
        assert "l/0: striped disc" in made.output
        told = runner.invoke(app, [*base, "--json"], catch_exceptions=False)
        assert json.loads(told.stdout)["concepts"] == ["striped disc"]
        failed = runner.invoke(
            app, [str(small.path), "--proposer", "openai:m@http://127.0.0.1:9/v1", "--out", str(tmp_path / "x"),
                  "--merge", "0", "--retries", "0"], catch_exceptions=False,
        )  # fmt: skip
        assert failed.exit_code == 1
