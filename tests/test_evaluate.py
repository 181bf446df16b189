"""The evaluation command's way through the real server: frames are lossless, reproducible and measured."""

import json
from pathlib import Path

import comfyui_lavie
import numpy as np
import pytest
from comfyui_lavie.training.evaluate_shapes import evaluate, frames_only, markdown, rates, server_generate, to_json

WORKFLOW = Path(comfyui_lavie.__file__).parent / "workflows" / "lavie_nano_text_to_video.json"


def test_two_clips_are_generated_and_measured(comfyui):
    generate = server_generate(comfyui.server, WORKFLOW, steps=25)
    samples = evaluate(generate, samples=2, seed=7, progress=False)
    assert [s.seed for s in samples] == [7, 8]
    assert all(s.measurement.color == s.scene.color for s in samples)
    report = json.loads(json.dumps(to_json(samples, steps=25)))
    assert report["rates"][0] == {
        "name": "colour", "successes": 2, "count": 2, "rate": 1.0, "interval": list(rates(samples)[0].interval)
    }  # fmt: skip
    assert "| colour |" in markdown(samples)


def test_the_seed_decides(comfyui):
    """Another seed in between makes the server compute the first one anew."""
    generate = server_generate(comfyui.server, WORKFLOW, steps=3)
    first, other, again = (generate("a red fish moving right", seed) for seed in (7, 9, 7))
    assert first.shape == (16, 64, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_workflow_without_a_video_is_refused(comfyui):
    api = {k: v for k, v in comfyui.workflow(WORKFLOW.name).items() if v["class_type"] != "CreateVideo"}
    with pytest.raises(ValueError, match="one Create Video node"):
        frames_only(api)
