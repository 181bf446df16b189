"""Chinese and Japanese texts use the words of ComfyUI's own translations, as the installed frontend has them."""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from comfyui_lavie.place import ROOT

ASSETS = Path(importlib.util.find_spec("comfyui_frontend_package").origin).parent / "static" / "assets"
MARKS = {"zh": "采样器", "ja": "サンプラー"}  # a word that only this language's file of node names has
# Inputs of ours that mean what core's inputs of the same name mean.
SHARED_INPUTS = (
    "model", "noise", "guider", "sampler", "sigmas", "vae", "positive", "negative", "steps", "denoise", "seed", "width",
    "height", "fps", "audio", "overlap", "fuse_method", "image",
)  # fmt: skip
# (the word that core uses, words that it does not or hardly uses for the same thing)
WORDS = {
    "zh": (("采样器", ("取样器",)), ("遮罩", ("蒙版",)), ("提示词", ("提示语",)), ("调度器", ("排程器",)),
           ("加载", ("载入",)), ("条件", ("调节",)), ("解码", ("译码",)), ("上下文窗口", ("语境窗口",))),
    "ja": (("サンプラー", ("サンプラ ",)), ("オーバーラップ", ("重なり",)), ("ビデオ", ("映像",)),
           ("プロンプト", ("呪文",)), ("マスク", ("覆い",)), ("コンテキストウィンドウ", ("文脈窓",))),
}  # fmt: skip


@pytest.fixture(scope="module", params=MARKS)
def language(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def core(language) -> str:
    """ComfyUI's translated names and tooltips of its nodes, as JavaScript."""
    texts = [path.read_text(encoding="utf-8") for path in ASSETS.glob("nodeDefs-*.js")]
    (found,) = (text for text in texts if MARKS[language] in text)
    return found


@pytest.fixture(scope="module")
def ours(language) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "locales" / language).glob("*.json")))


def test_inputs_are_called_what_core_calls_them(language, core):
    names: dict[str, Counter] = {}
    for key, name in re.findall(r"\b(\w+):\{name:`([^`]*)`", core):
        names.setdefault(key, Counter())[name.lower()] += 1
    nodes = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    seen, wrong = set(), {}
    for node, texts in nodes.items():
        for key, entry in texts["inputs"].items():
            if key in SHARED_INPUTS:
                seen.add(key)
                if entry["name"].lower() not in names[key]:
                    wrong[f"{node}.{key}"] = (entry["name"], names[key].most_common(3))
    assert wrong == {}
    assert seen == set(SHARED_INPUTS)


def test_words_are_those_of_core(language, core, ours):
    for word, others in WORDS[language]:
        assert all(core.count(word) > 2 * core.count(other) for other in others), f"core itself does not prefer {word}"
        assert word in ours and not any(other in ours for other in others), word
