"""What `build` made is data like any other: the nano base trains on it, clips with their bars cut off included."""

from __future__ import annotations

import json

import numpy as np
from comfyui_lavie.datasets.__main__ import main
from comfyui_lavie.datasets.catalogue import Catalogue
from comfyui_lavie.datasets.video import encode_video
from comfyui_lavie.place import ROOT
from comfyui_lavie.tests.datasets.blueprints import STAGES
from comfyui_lavie.tests.tiny_training import tiny_recipe
from comfyui_lavie.training.loop import Training


def test_one_command_builds_a_second_trains_a_third_reports(footage, tmp_path, capsys):
    films = tmp_path / "films"
    films.mkdir()
    barred = np.maximum(footage.rabbit[:40], 40)
    barred[:, :20] = barred[:, -20:] = 0
    for name, frames in (("two", np.concatenate([footage.bikes[:30], footage.face[:30]])), ("bars", barred)):
        encode_video(frames, films / f"{name}.mp4", 25)
        (films / f"{name}.txt").write_text(f"a film called {name}")
    (tmp_path / "mine.toml").write_text(f"{STAGES}\n[select]\nduplicates = 6\n")
    assert main(["build", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "data"), "--workers", "1"]) == 0
    assert "| all shots | 0 | 0 | 3 |" in capsys.readouterr().out
    assert len(Catalogue.load(tmp_path / "data").items) == 3

    start = ROOT / "weights/diffusion_models/lavie_nano_base.safetensors"
    recipe = tiny_recipe(
        "nano_joint", tmp_path / "run", tmp_path / "data", model__start=start, data__images=0, data__stride=[1, 2],
        samples__every=0, validation__every=0, validation__heldout=0, run__steps=2,
    )  # fmt: skip
    Training(recipe).run()
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2] and all(np.isfinite(row["loss"]) for row in rows)

    assert main(["report", str(tmp_path / "data")]) == 0
    assert (tmp_path / "data/report.html").stat().st_size > 10_000
