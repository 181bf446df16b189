"""Graphs as data: prompt and seed found or refused, digests, settings, the video whose frames are taken."""

from __future__ import annotations

import argparse
import copy

import pytest
from comfyui_lavie.comfyui_api.clips import frame_rate, frames_only
from comfyui_lavie.comfyui_api.graphs import WorkflowError, digest_of, parse_setting, set_inputs, settings_of


def graph() -> dict:
    """Text -> KSampler -> decode -> Create Video, and a second, longer way to another video."""
    sampling = {"steps": 4, "cfg": 7.0, "positive": ["text", 0], "latent_image": ["latent", 0]}
    return {
        "text": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fish", "clip": ["loader", 0]}},
        "loader": {"class_type": "Loader", "inputs": {}},
        "latent": {"class_type": "Empty", "inputs": {"width": 64}},
        "first": {"class_type": "KSampler", "inputs": {**sampling, "seed": 1}},
        "second": {"class_type": "KSampler", "inputs": {**sampling, "steps": 8, "seed": 2, "model": ["first", 0]}},
        "short": {"class_type": "CreateVideo", "inputs": {"images": ["first", 0], "fps": 8}},
        "long": {"class_type": "CreateVideo", "inputs": {"images": ["second", 0], "fps": ["rate", 0]}},
        "rate": {"class_type": "PrimitiveFloat", "inputs": {"value": 24.0}},
    }


def test_every_seed_is_set():
    api = set_inputs(graph(), seed=9)
    assert api["first"]["inputs"]["seed"] == api["second"]["inputs"]["seed"] == 9


def test_seed_that_another_node_hands_over():
    api = graph()
    for name in ("first", "second"):
        api[name]["inputs"]["seed"] = ["shared", 0]
    api["shared"] = {"class_type": "PrimitiveInt", "inputs": {"value": 3}}
    set_inputs(api, seed=9)
    assert api["shared"]["inputs"]["value"] == 9 and api["first"]["inputs"]["seed"] == ["shared", 0]


def test_workflow_without_seed_is_refused():
    api = graph()
    for name in ("first", "second"):
        del api[name]["inputs"]["seed"]
    with pytest.raises(WorkflowError, match="no seed to set.*noise_seed.*RandomNoise"):
        set_inputs(api, seed=9)


def test_workflow_without_prompt_is_refused():
    api = graph()
    del api["text"]["inputs"]["text"]
    with pytest.raises(WorkflowError, match="no prompt to set.*positive"):
        set_inputs(api, prompt="a car")


def test_digest_leaves_prompt_and_seed_out_and_nothing_else():
    api = graph()
    digest, before = digest_of(api), copy.deepcopy(api)
    assert len(digest) == 64 and api == before, "the graph is not changed"
    assert digest_of(set_inputs(graph(), prompt="a car", seed=5)) == digest
    assert digest_of(dict(reversed(graph().items()))) == digest
    assert digest_of(set_inputs(graph(), steps=5)) != digest
    assert digest_of({**graph(), "loader": {"class_type": "Other", "inputs": {}}}) != digest


def test_settings_that_differ_are_a_list():
    assert settings_of(graph(), ("steps", "cfg", "denoise", "positive")) == {"steps": [4, 8], "cfg": 7.0}


def test_the_last_video_counts():
    kept = frames_only(graph())
    assert set(kept) - set(graph()) == {"lavie_frames"}
    assert kept["lavie_frames"] == {"class_type": "PreviewImage", "inputs": {"images": ["second", 0]}}
    assert not {"short", "long", "rate"} & set(kept)
    assert frame_rate(graph()) == 24.0


@pytest.mark.parametrize(
    ("text", "found"), [("steps=25", ("steps", 25)), ("name=a=b", ("name", "a=b")), ("on=true", ("on", True))]
)
def test_settings_of_the_command_line(text, found):
    assert parse_setting(text) == found


@pytest.mark.parametrize("text", ["steps", "=3", ""])
def test_what_is_no_setting(text):
    with pytest.raises(argparse.ArgumentTypeError, match="INPUT=VALUE"):
        parse_setting(text)
