"""Every name of ComfyUI that the pack imports or overrides is there, in the ComfyUI that the tests run."""

from __future__ import annotations

import importlib
import inspect

import pytest
from comfyui_lavie.tools import core_names

NAMES = sorted({name for file in core_names.sources() for name in core_names.names_in(file)})
DERIVED = [derived for file in core_names.sources() for derived in core_names.derived_in(file)]
RUNNING = "server.PromptServer.instance"  # which a server sets when it starts


def look_up(name: str):
    """What a dotted name stands for; behind an object that is no module or class, only its own attributes exist."""
    parts = (RUNNING.rpartition(".")[0] if name.startswith(RUNNING) else name).split(".")
    thing = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], start=1):
        if not hasattr(thing, part) and inspect.ismodule(thing):
            thing = importlib.import_module(".".join(parts[: i + 1]))
        elif not (inspect.ismodule(thing) or inspect.isclass(thing)):
            return thing
        else:
            thing = getattr(thing, part)
    return thing


def test_there_are_names_and_classes():
    assert {"comfy.model_base.BaseModel", "comfy_api.latest.io.ComfyNode"} <= {*NAMES, *(d.base for d in DERIVED)}
    assert len(NAMES) > 60


@pytest.mark.parametrize("name", NAMES)
def test_name_is_there(name):
    look_up(name)


@pytest.mark.parametrize("derived", DERIVED, ids=lambda derived: derived.name)
def test_class_can_be_derived_from(derived):
    """The base exists, and of what ours defines something replaces what core still has."""
    base = look_up(derived.base)
    assert inspect.isclass(base)
    replaced = [member for member in derived.members if hasattr(base, member)]
    if derived.members and derived.base.startswith("comfy."):
        assert replaced, f"nothing of {derived.base} that {derived.name} defines exists any more"


def test_page_is_what_the_source_says():
    assert core_names.PAGE.read_text(encoding="utf-8") == core_names.page(), "run comfyui_lavie.tools.core_names"


def test_a_missing_name_is_noticed():
    with pytest.raises((AttributeError, ImportError)):
        look_up("comfy.utils.no_such_name")
