"""Words for artists: every node has help, tooltips and translations, and nothing is left over of nodes that are gone.

Contract: what a real server says about the nodes is compared with the files; `tools.texts` lists what a new node lacks.
"""

from __future__ import annotations

import copy
import json
import re
import urllib.request
from pathlib import Path

import pytest
from comfyui_lavie.tools import texts

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_is_missing(comfyui):
    assert texts.missing(comfyui.object_info) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda info: info.update(LaVieNew=info["LaVieScheduler"]), "LaVieNew.md: there is no help page"),
        (lambda info: info.update(LaVieNew=info["LaVieScheduler"]), "ja/nodeDefs.json: LaVieNew.inputs.model.name is"),
        (lambda info: info.pop("LaVieScheduler"), "zh/nodeDefs.json: LaVieScheduler.display_name belongs to no node"),
        (lambda info: info.pop("LaVieScheduler"), "LaVieScheduler.md: no node of that name"),
        (lambda info: steps(info).update(tooltip=""), "inputs.steps.tooltip: the node itself says nothing"),
        (lambda info: steps(info).update(tooltip="New."), "inputs.steps.tooltip is not what the node says"),
        (
            lambda info: required(info).update(guidance=["FLOAT", {"tooltip": "t"}]),
            "LaVieScheduler.md: input guidance is not explained",
        ),
        (lambda info: required(info).update(guidance=["FLOAT", {}]), "LaVieScheduler.png: older than its node"),
        (lambda info: steps(info).update(default=7), "LaVieScheduler.png: older than its node"),
    ],
)
def test_what_is_missing_is_told(comfyui, change, told):
    info = copy.deepcopy(comfyui.object_info)
    change(info)
    assert any(told in line for line in texts.missing(info)), told


def required(info: dict) -> dict:
    return info["LaVieScheduler"]["input"]["required"]


def steps(info: dict) -> dict:
    return required(info)["steps"][1]


def test_settings_are_those_of_the_extension():
    """The identifiers in web/lavie.js, in the form in which ComfyUI looks translations up."""
    script = (ROOT / "web" / "lavie.js").read_text(encoding="utf-8")
    prefix = re.search(r'PREVIEW = "([\w.]+)"', script).group(1)
    ids = {f"{prefix}.{name}".replace(".", "_") for name in re.findall(r"id: `\$\{PREVIEW\}\.(\w+)`", script)}
    assert len(ids) == 3
    for language in texts.LANGUAGES:
        assert set(texts.read(language, "settings.json")) == ids, language


def test_the_server_gives_them_out(comfyui):
    with urllib.request.urlopen(f"{comfyui.server.url}/i18n") as answer:
        words = json.load(answer)
    for language in texts.LANGUAGES:
        assert words[language]["nodeDefs"]["EmptyLaVieLatent"]["display_name"]
        assert "LaVie_Preview_Rate" in words[language]["settings"] and "base" in words[language]["lavie"]["readout"]
    with urllib.request.urlopen(f"{comfyui.server.url}/extensions/lavie/docs/EmptyLaVieLatent.md") as answer:
        assert answer.read().decode().startswith("# Empty LaVie Latent")
