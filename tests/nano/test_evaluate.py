"""The evaluation command's way through the real server: frames are lossless, reproducible and measured."""

import json
from pathlib import Path

import comfyui_lavie
import numpy as np
import pytest
from comfyui_lavie.comfyui_api.clips import frames_only, make_clip
from comfyui_lavie.comfyui_api.graphs import WorkflowError
from comfyui_lavie.evaluation import manifest
from comfyui_lavie.evaluation.clips import read_clip
from comfyui_lavie.nano.evaluate import evaluate, markdown, rates, to_json
from comfyui_lavie.nano.kept import measurement_clips, workflow_clips

WORKFLOW = Path(comfyui_lavie.__file__).parent / "nano" / "workflows" / "lavie_nano_text_to_video.json"


def test_two_clips_are_generated_kept_and_measured(comfyui, tmp_path):
    """The clips are those of the evaluation; one that is there already is read, not made."""
    generate = workflow_clips(comfyui.server, WORKFLOW, tmp_path, steps=8)
    samples = evaluate(generate, samples=2, seed=7, progress=False)
    assert [s.seed for s in samples] == [7, 8]
    assert all(s.measurement.color == s.scene.color for s in samples)
    report = json.loads(json.dumps(to_json(samples, steps=8)))
    assert report["rates"][0] == {
        "name": "colour", "successes": 2, "count": 2, "rate": 1.0, "interval": list(rates(samples)[0].interval)
    }  # fmt: skip
    assert "| colour |" in markdown(samples)
    [folder] = tmp_path.iterdir()
    records = manifest.read(folder)
    assert [record.seed for record in records] == [7, 8] and records[0].weights
    runs = len(comfyui.server.get("/history"))
    again = workflow_clips(comfyui.server, WORKFLOW, tmp_path, steps=8)(samples[0].prompt, 7)
    assert np.array_equal(again, read_clip(folder / records[0].file))
    assert len(comfyui.server.get("/history")) == runs


def test_a_stopped_measurement_goes_on_and_a_new_one_begins_anew(tmp_path):
    place = tmp_path / "clips"
    with pytest.raises(KeyboardInterrupt), measurement_clips(place) as clips:
        (clips / "one").touch()
        raise KeyboardInterrupt
    with measurement_clips(place) as clips:
        assert (clips / "one").exists()
        (clips / "two").touch()
    assert sorted(path.name for path in place.iterdir()) == ["one", "two"]
    with measurement_clips(place) as clips:
        assert not any(clips.iterdir()) and any(place.iterdir())
    assert not any(place.iterdir()) and [path.name for path in tmp_path.iterdir()] == ["clips"]


def test_the_seed_decides(comfyui):
    """Another seed in between makes the server compute the first one anew."""
    api = frames_only(comfyui.workflow(WORKFLOW.name, steps=3))
    first, other, again = (make_clip(comfyui.server, api, "a red fish moving right", seed).frames for seed in (7, 9, 7))
    assert first.shape == (16, 64, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_workflow_without_a_video_is_refused(comfyui):
    api = {k: v for k, v in comfyui.workflow(WORKFLOW.name).items() if v["class_type"] != "CreateVideo"}
    with pytest.raises(WorkflowError, match="one Create Video node"):
        frames_only(api)
