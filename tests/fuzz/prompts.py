"""Prompts that no artist would make, each from a seed: the nano workflows with inputs replaced, linked astray or gone.

Contract: sizes stay small, so that a prompt which happens to be right costs little.
"""

from __future__ import annotations

import copy
import json
import math
import random

ODD_VALUES = (
    0, -1, 1, 7, 351, 10**9, -(10**12), 2**63, 0.5, -0.5, math.nan, math.inf, -math.inf, 1e30, "", "0: a",
    "x" * 2000, "nan", "../../etc/passwd", "\x00", "<script>alert(1)</script>", True, False, None, [], [1, 2], {},
    {"latent": [2, 16, 8, 8]}, {"latent": [0, 4, 8, 8]}, {"latent": [1, 64, 20]},
    {"latent": [2, 4, 8, 8]}, {"latent": [2, 4, 1, 8, 8]},
    {"latent": {"shape": [2, 4, 8, 8], "fill": math.nan}}, {"image": [0, 8, 8, 3]}, {"image": [2, 5, 5, 3]},
    {"image": [3, 16, 24, 1]}, {"image": [2, 16, 16, 3]}, {"sigmas": []}, {"sigmas": [1.0, 2.0, 3.0]},
    {"sigmas": [math.nan, 0.0]}, {"sigmas": [3.0, 1.0, 0.0]}, {"audio": [1, 1, 40]},
)  # fmt: skip
OURS = 0.7  # of changes go to this pack's nodes
SMALL = {"steps": 1, "frames": 2, "width": 32, "height": 32, "total_frames": 6, "clip_frames": 4, "overlap": 1}
LARGEST = {"steps": 3, "frames": 5, "total_frames": 8, "clip_frames": 5, "width": 64, "height": 64}


def make_prompt(workflows: list[dict], random_: random.Random) -> dict:
    """One changed workflow in API form."""
    api = copy.deepcopy(random_.choice(workflows))
    for number in range(random_.randint(1, 3)):
        _change(api, random_, f"fuzz{number}")
    return _bounded(api)


def shrink(api: dict) -> dict:
    """A workflow at the smallest size that is worth running; changed in place."""
    for node in api.values():
        for name, value in SMALL.items():
            if isinstance(node["inputs"].get(name), int | float):
                node["inputs"][name] = value
    return api


def _change(api: dict, random_: random.Random, new: str) -> None:
    nodes = [node for node in api.values() if node["inputs"]]
    ours = [node for node in nodes if "LaVie" in node["class_type"]]
    node = random_.choice(ours if random_.random() < OURS else nodes)
    name = random_.choice(sorted(node["inputs"]))
    kind = random_.random()
    if kind < 0.25:
        value = random_.choice(ODD_VALUES)
        node["inputs"][name] = value if not isinstance(value, dict | list) else json.dumps(value)
    elif kind < 0.7:
        api[new] = {"class_type": "TestValue", "inputs": {"value": json.dumps(random_.choice(ODD_VALUES))}}
        node["inputs"][name] = [new, 0]
    elif kind < 0.85:
        node["inputs"][name] = [random_.choice(sorted(api)), random_.randint(0, 2)]
    elif kind < 0.95:
        del node["inputs"][name]
    else:
        node["inputs"][f"{name}_{new}"] = random_.choice(("", 1, None))


def _bounded(api: dict) -> dict:
    """No value that is right asks for long work: whatever is large and allowed becomes small, linked or not."""
    for node in api.values():
        for name, most in LARGEST.items():
            value = node["inputs"].get(name)
            if _is_large(value, most):
                node["inputs"][name] = most
            source = api.get(value[0], {}) if isinstance(value, list) and value else {}
            if source.get("class_type") == "TestValue" and _is_large(_said(source), most):
                source["inputs"]["value"] = json.dumps(most)
    return api


def _said(source: dict):
    try:
        return json.loads(source["inputs"]["value"])
    except (KeyError, TypeError, ValueError):  # itself changed
        return None


def _is_large(value, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and most < value < 5000
