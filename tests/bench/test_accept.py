"""Acceptance at toy size on the CPU: every part works, is kept, and has its place on the page."""

import hashlib
import json

import pytest
from comfyui_lavie.bench.__main__ import main
from comfyui_lavie.bench.accept.command import PARTS
from comfyui_lavie.bench.accept.precision import BOUNDS
from comfyui_lavie.lavie_models.published import PUBLISHED
from comfyui_lavie.place import ROOT

MODELS = ROOT / "weights"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The command at toy size, with some more options; its exit status."""
    out = tmp_path_factory.mktemp("accept")

    def run(*options) -> int:
        return main(["accept", "--device", "cpu", "--toy", "--out", str(out), *options])

    run.page, run.figures = out / "cpu_toy.md", out / "cpu_toy.json"
    return run


@pytest.fixture(scope="module")
def results(run):
    """{part: its result} of the whole command."""
    assert run() == 0
    return {name: part["result"] for name, part in json.loads(run.figures.read_text()).items()}


def test_the_page_has_every_part(run, results):
    page = run.page.read_text()
    assert list(results) == list(PARTS) and page.count("\n## ") == len(PARTS)
    assert "Failed" not in page and "too large" not in page
    assert page.count("needs a GPU") == len(results["suite"]) > 0, "what is not tested is said"


def test_every_stage_has_its_figures(results):
    for stage in PUBLISHED:
        assert set(results["precision"][stage]) == set(BOUNDS)
        assert results["precision"][stage]["fp16"] < results["precision"][stage]["bf16"], "three more bits"
        row = results["stages"][f"{stage} fp32"]
        assert row["flops"] > 0 < row["eager"] and row["frugal_memory"] <= row["eager_memory"]
        assert results["training"][stage]["flops"] > row["flops"] and results["training"][stage]["seconds"] > 0
        assert "| ratio |" in results["peer"][stage]
    for vae in results["vae"].values():
        assert all(vae[way]["seconds"] > 0 < vae[way]["memory"] for way in ("encode", "decode"))
    (cascade,) = results["cascade"].values()
    assert cascade["workflow"] == "lavie_nano_cascade.json" and len(cascade["stages"]) == len(PUBLISHED)


def test_what_is_done_is_not_done_again(run, results):
    before = run.figures.read_text()
    assert run() == 0 and run.figures.read_text() == before


def test_a_part_that_fails_is_told_and_tried_again(run, results, monkeypatch):
    from comfyui_lavie.bench import measure

    with monkeypatch.context() as changed:
        changed.setattr(measure, "RATE_REPEATS", -1)  # no time to take a median of
        assert run("--parts", "machine", "--again") == 1
    assert "Failed: StatisticsError" in run.page.read_text()
    assert run("--parts", "machine") == 0 and "Failed" not in run.page.read_text()


def test_a_folder_of_weights_is_told_file_by_file(run, results):
    """The small networks that come with the pack; the published ones are not there, and their templates say so.

    What was measured without a folder is measured anew.
    """
    assert run("--models", str(MODELS), "--parts", "weights", "templates") == 0
    told = {name: part["result"] for name, part in json.loads(run.figures.read_text()).items()}
    base = "diffusion_models/lavie_nano_base.safetensors"
    digest = hashlib.sha256((MODELS / base).read_bytes()).hexdigest()
    assert told["weights"][base] == {"sha256": digest, "kind": "base", "fits": "yes"}
    assert told["templates"]["LaVie 03 Text to video"]["missing"][0] == "diffusion_models/lavie_base.pt"


def test_a_folder_that_is_not_there_is_told(run, tmp_path, capsys):
    assert run("--models", str(tmp_path / "none")) == 1
    assert "there is no folder" in capsys.readouterr().err
