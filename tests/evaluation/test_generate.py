"""Generating on real servers: the same clips however many there are, what a dying one costs, going on, and the whole
way to a report.

Contract: the reference is what the one server of the `comfyui` fixture makes, as a server that was running already.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from comfyui_lavie.comfyui_api.clips import frames_only, make_clip
from comfyui_lavie.comfyui_api.pool import Pool
from comfyui_lavie.comfyui_api.workers import given
from comfyui_lavie.datasets.locks import locked_folder
from comfyui_lavie.evaluation import manifest
from comfyui_lavie.evaluation.__main__ import main
from comfyui_lavie.evaluation.clips import read_clip
from comfyui_lavie.evaluation.generate import generate
from comfyui_lavie.evaluation.jobs import jobs_of, name_by_content
from comfyui_lavie.evaluation.prompts import Prompt, PromptSet
from comfyui_lavie.evaluation.workflow import open_workflow
from comfyui_lavie.place import NANO_WORKFLOWS

NANO = NANO_WORKFLOWS / "lavie_nano_text_to_video.json"
TEXTS = ("a red fish moving right", "a blue car moving left")
PROMPTS = PromptSet("two", tuple(Prompt(text) for text in TEXTS))
QUICK = {"steps": 2, "frames": 4}


def make(pool: Pool, folder: Path, samples: int, **options) -> list[manifest.ClipRecord]:
    """`samples` quick nano clips of each prompt."""
    jobs = jobs_of(PROMPTS, samples)
    workflow = open_workflow(pool, NANO, QUICK)
    return generate(pool, workflow, "two", jobs, folder, name_by_content("mkv"), progress=False, **options)


def pixels(folder: Path) -> dict[str, np.ndarray]:
    """{content id: frames} of a folder's clips."""
    return {record.id: read_clip(folder / record.file) for record in manifest.read(folder)}


@pytest.fixture(scope="module")
def one(comfyui, tmp_path_factory):
    """A folder of four clips of each prompt by one server."""
    folder = tmp_path_factory.mktemp("one")
    with Pool(given([comfyui.server.url])) as pool:
        make(pool, folder, 4)
    return folder


@pytest.fixture()
def command(comfyui, tmp_path):
    """Run the command with the one server; returns its exit status."""
    (tmp_path / "two.txt").write_text("\n".join(TEXTS))

    def run(*arguments, out: Path = tmp_path / "out", workflow: Path = NANO) -> int:
        what = ["--workflow", workflow, "--prompts", tmp_path / "two.txt", "--servers", comfyui.server.url]
        quick = ["--set", "steps=2", "--set", "frames=4"]
        return main(["generate", *map(str, [*what, "--out", out, *quick, *arguments])])

    return run


def assert_same(folder: Path, reference: Path) -> None:
    """Both have the same clips, pixel by pixel."""
    made, expected = pixels(folder), pixels(reference)
    assert made.keys() == expected.keys() and len(made) == len(list(folder.glob("*.mkv"))) == 8
    assert all(np.array_equal(frames, expected[content]) for content, frames in made.items())


def test_records_tell_what_was_made(one, comfyui):
    """Prompt and seed of a record, given to the workflow by other means, make the frames of its file."""
    records = manifest.read(one)
    asked = {(record.prompt, record.index): record.seed for record in records}
    assert asked == {(text, i): 1000 * n + i for n, text in enumerate(TEXTS) for i in range(4)}
    again = frames_only(comfyui.workflow(NANO.name, **QUICK))
    for record in records[2:4]:
        frames = make_clip(comfyui.server, again, record.prompt, record.seed).frames
        assert np.array_equal(read_clip(one / record.file), frames)
        assert (record.frames, record.width, record.height, record.fps) == (4, 64, 64, 8.0)
        assert record.sampling["steps"] == 2 and record.versions["comfyui"].count(".") == 2
        assert len(record.weights) == 3 and all(len(digest) == 64 for digest in record.weights.values())
        assert record.workflow == NANO.name and record.seconds > 0


def test_two_servers_of_which_one_is_killed_make_the_same(pair, one, tmp_path, monkeypatch):
    """One is killed after the first clip: its work is done again, it is replaced, and nothing is made twice."""
    victim = pair.workers[0].server
    append, written = manifest.append, []

    def killing(folder, record):
        if not written:
            victim.kill()
        written.append(record.id)
        append(folder, record)

    monkeypatch.setattr(manifest, "append", killing)
    make(pair, tmp_path, 4)
    assert_same(tmp_path, one)
    assert len(written) == len(set(written)) == 8
    assert pair.workers[0].server is not victim and all(pair.ask_all(_is_alive))


def _is_alive(client) -> bool:
    return bool(client.object_info())


def test_going_on(one, comfyui, tmp_path):
    """Fewer clips first, then all, a file lost and a line cut short in between: only what lacks is made."""
    with Pool(given([comfyui.server.url])) as pool:
        first = make(pool, tmp_path, 1)
        kept, lost = (tmp_path / record.file for record in first)
        stamp = kept.stat().st_mtime_ns
        lost.unlink()
        with (tmp_path / manifest.MANIFEST).open("a") as file:
            file.write('{"id": "cut')
        make(pool, tmp_path, 4)
        assert_same(tmp_path, one)
        assert kept.stat().st_mtime_ns == stamp
        text = (tmp_path / manifest.MANIFEST).read_text()
        assert len(make(pool, tmp_path, 4)) == 8 and (tmp_path / manifest.MANIFEST).read_text() == text


def test_command(command, tmp_path, capsys):
    """VBench's names, a plan from what was measured, and a folder that is kept to one workflow."""
    out = tmp_path / "out"
    assert command("--names", "vbench", "--samples", "2") == 0
    assert "4 clips" in capsys.readouterr().out
    assert {file.name for file in out.glob("*.mp4")} == {f"{text}-{i}.mp4" for text in TEXTS for i in range(2)}
    assert command("--samples", "5", "--plan") == 0
    assert "10 clips, 4 of them made, 6 left" in capsys.readouterr().out
    assert command("--names", "vbench", "--set", "cfg=3.0") == 1
    assert "another workflow" in capsys.readouterr().err
    assert command("--format", "png") == 1
    assert "another format" in capsys.readouterr().err
    assert command("--names", "vbench", "--seed", "7") == 1
    assert f"another clip under the name {TEXTS[0]}-0.mp4, with seed 0" in capsys.readouterr().err
    assert command("--format", "mp4") == 1
    assert f"under the name {TEXTS[0]}-0.mp4" in capsys.readouterr().err
    with locked_folder(out, "a test"):
        assert command("--names", "vbench") == 1
    assert "in use" in capsys.readouterr().err


def test_pictures(command, tmp_path):
    assert command("--limit", "1", "--format", "png") == 0
    (record,) = manifest.read(tmp_path / "out")
    assert read_clip(tmp_path / "out" / record.file).shape == (4, 64, 64, 3)


def edited(path: Path, comfyui, change) -> Path:
    """The nano workflow in API format, changed."""
    api = comfyui.workflow(NANO.name)
    change(api)
    path.write_text(json.dumps(api))
    return path


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("seed", None, ("no seed to set",)),
        ("text", None, ("no prompt to set",)),
        ("model_name", "lost.safetensors", ("lost.safetensors", "LaVieBaseModelLoader", "models folder")),
        ("steps", -1, ("4 of 4 clips are not made", "steps", TEXTS[0])),
    ],
)
def test_workflows_that_cannot_be_judged(command, comfyui, tmp_path, capsys, name, value, parts):
    """Refused before anything is made; a workflow that always fails is stopped at its third failure."""

    def change(api):
        for node in api.values():
            if name in node["inputs"]:
                node["inputs"][name] = value
                if value is None:
                    del node["inputs"][name]

    arguments = ["--set", "steps=-1"] if name == "steps" else []
    assert command(*arguments, "--samples", "2", workflow=edited(tmp_path / "w.json", comfyui, change)) == 1
    told = capsys.readouterr().err
    assert all(part in told for part in parts), told
    assert not list((tmp_path / "out").glob("*.mkv"))


def test_server_that_is_not_there(tmp_path, capsys):
    (tmp_path / "p.txt").write_text("a cat")
    what = ["--workflow", str(NANO), "--prompts", str(tmp_path / "p.txt"), "--out", str(tmp_path / "o")]
    assert main(["generate", *what, "--servers", "127.0.0.1:9"]) == 1
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err


def test_from_prompts_to_a_report(pair, tmp_path, capsys):
    """All three stages of the nano cascade on two servers, each step as its command."""
    (tmp_path / "two.txt").write_text("\n".join(TEXTS))
    clips, cascade = tmp_path / "clips", NANO_WORKFLOWS / "lavie_nano_cascade.json"
    small = ("--set", "steps=1", "--set", "frames=3", "--set", "width=32", "--set", "height=32")
    servers = (worker.server.url for worker in pair.workers)
    what = ("--workflow", cascade, "--prompts", tmp_path / "two.txt", "--out", clips, "--servers", *servers)
    assert main(["generate", *map(str, what), *small]) == 0
    records = manifest.read(clips)
    assert {record.prompt for record in records} == set(TEXTS)
    for record in records:  # three frames between each pair, then four times the size
        assert read_clip(clips / record.file).shape == (9, 128, 128, 3) and record.fps == 24.0
        assert (record.frames, record.width, record.height, len(record.weights)) == (9, 128, 128, 6)
    assert not np.array_equal(*pixels(clips).values())
    assert main(["measure", str(clips)]) == 0
    assert "| temporal flickering (VBench) |" in capsys.readouterr().out
    assert main(["report", str(clips)]) == 0
    words, page = ((clips / "report" / f"report.{kind}").read_text(encoding="utf-8") for kind in ("md", "html"))
    assert all(text in words for text in ("temporal flickering", "file missing: i3d", records[0].workflow_digest))
    assert all(f"{record.prompt} <small>seed {record.seed}<" in page for record in records)
