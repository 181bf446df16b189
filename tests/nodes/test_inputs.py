"""Every input of every node, linked to values inside and outside of what its schema says, through the real server.

Contract: all inputs come through links from a wildcard output, where ComfyUI checks nothing. Values inside go to one
input at a time while required others get nothing, so that no node begins to work; values outside go to all at once.
"""

from __future__ import annotations

import json
import math

import pytest
from comfyui_lavie.comfyui_api.graphs import WorkflowError
from comfyui_lavie.nodes.extension import NODES
from comfyui_lavie.nodes.latent import EmptyLaVieLatent

NAMES = [node.__name__ for node in NODES]
NUMBERS_OUTSIDE = (math.nan, math.inf, -math.inf, "12", None, True, [1, 2])
NONE_OF_THESE = (None, 7, "nothing", [1, 2])
OBJECTS = ("MODEL", "CLIP", "VAE", "GUIDER", "NOISE", "SAMPLER", "CONDITIONING")
INSIDE = {
    "STRING": ("", "0: a fish"), "BOOLEAN": (True, False), "SIGMAS": ({"sigmas": [3.0, 1.0, 0.0]},),
    "LATENT": ({"latent": [2, 4, 8, 8]},), "IMAGE": ({"image": [2, 16, 16, 3]}, {"image": [1, 8, 8, 4]}),
    "AUDIO": ({"audio": [1, 2, 100]},),
}  # fmt: skip
BROKEN = {"shape": [2, 4, 8, 8], "fill": math.nan}
OUTSIDE = {
    "STRING": (None, 7, [1]), "BOOLEAN": (None, 1, "true"),
    "SIGMAS": (*NONE_OF_THESE, {"sigmas": []}, {"sigmas": [1.0, math.nan]}),
    "LATENT": (*NONE_OF_THESE, {"latent": [2, 16, 8, 8]}, {"latent": [1, 4, 2, 8, 8]}, {"latent": [1, 64, 20]},
               {"latent": [0, 4, 8, 8]}, {"latent": BROKEN}, {"image": [2, 8, 8, 3]}),
    "IMAGE": (*NONE_OF_THESE, {"image": [0, 8, 8, 3]}, {"image": [2, 8, 8]}, {"image": [2, 8, 8, 1]}),
    "AUDIO": (*NONE_OF_THESE, {"latent": [2, 4, 8, 8]}, {"audio": [1, 2, 0]}),
}  # fmt: skip


def values_of(kind: str, options: dict) -> tuple[tuple, tuple]:
    """(inside, outside) of an input, from what the server tells about it."""
    if kind in ("INT", "FLOAT"):
        least, most = options["min"], options["max"]
        return (least, most, options["default"]), (least - 1, most * 2 + 1, *NUMBERS_OUTSIDE)
    if kind == "COMBO":
        return tuple(options["options"][:1]), ("no such choice", 0, None, ["fp16"])
    if kind in OBJECTS:
        return (), (*NONE_OF_THESE, {"latent": [2, 4, 8, 8]})
    return INSIDE[kind], OUTSIDE[kind]


def complaint(comfyui, node: str, values: dict) -> str:
    """What the server says of a node whose inputs are linked to values; required ones not named get nothing."""
    given = dict.fromkeys(comfyui.object_info[node]["input"]["required"]) | values
    api = {name: {"class_type": "TestValue", "inputs": {"value": json.dumps(one)}} for name, one in given.items()}
    api["node"] = {"class_type": node, "inputs": {name: [name, 0] for name in given}}
    api["end"] = {"class_type": "PreviewAny", "inputs": {"source": ["node", 0]}}
    try:
        comfyui.run(api)
    except WorkflowError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("node", NAMES)
def test_linked_inputs(comfyui, node):
    """Outside: refused by name, with what came. Inside: no word of it."""
    title = comfyui.object_info[node]["display_name"]
    described = comfyui.object_info[node]["input"]
    inputs = {**described["required"], **described.get("optional", {})}
    for name, (kind, options) in inputs.items():
        for value in values_of(kind, options)[0]:
            said = complaint(comfyui, node, {name: value})
            assert f"{name} must be" not in said, f"{name} = {value}: {said}"
    optional = described.get("optional", {})
    outside = {
        name: [value for value in values_of(kind, options)[1] if value is not None or name not in optional]
        for name, (kind, options) in inputs.items()
    }
    for number in range(max(map(len, outside.values()))):
        values = {name: some[number % len(some)] for name, some in outside.items()}
        said = complaint(comfyui, node, values)
        unsaid = [name for name in values if f"{name} must be" not in said]
        assert f"{title}: " in said and not unsaid and "Traceback" not in said, f"{unsaid} of {values}: {said}"


def test_every_node_is_checked():
    """A new node cannot forget it."""
    assert [node.__name__ for node in NODES if not hasattr(node.execute, "__wrapped__")] == []


def test_empty_latent_takes_its_size_from_links(comfyui):
    """From primitives, as graphs do that say a size once; a size that does not fit is told when it is known."""
    api = {
        "size": {"class_type": "PrimitiveInt", "inputs": {"value": 64}},
        "latent": {"class_type": "EmptyLaVieLatent", "inputs": {"width": ["size", 0], "height": 32, "frames": 2}},
        "end": {"class_type": "PreviewAny", "inputs": {"source": ["latent", 0]}},
    }
    comfyui.run(api)
    api["size"]["inputs"]["value"] = 60
    with pytest.raises(WorkflowError, match="width must be a multiple of 8 pixels, got 60; use 56 or 64"):
        comfyui.run(api)
    api["latent"]["inputs"] |= {"width": ["size", 0], "height": 33}
    with pytest.raises(WorkflowError, match="Custom validation"):
        api["latent"]["inputs"]["width"] = 64
        comfyui.run(api)


def test_a_link_into_an_input_that_is_not_there(comfyui):
    """As in a workflow of another version; values of such inputs core drops by itself."""
    api = {
        "size": {"class_type": "PrimitiveInt", "inputs": {"value": 64}},
        "latent": {"class_type": "EmptyLaVieLatent",
                   "inputs": {"width": 64, "height": 64, "frames": 2, "depth": ["size", 0]}},
        "end": {"class_type": "PreviewAny", "inputs": {"source": ["latent", 0]}},
    }  # fmt: skip
    with pytest.raises(WorkflowError, match="Empty LaVie Latent has no input depth; take what is linked to it out"):
        comfyui.run(api)


def test_a_clip_too_large_for_the_computer():
    with pytest.raises(ValueError, match=r"4096 frames of 16384 x 16384 pixels take 1\.1 TB .* use fewer or smaller"):
        EmptyLaVieLatent.execute(16384, 16384, 4096)
