"""The commands that rebuild the small models: each is one that exists, on files that those before it make."""

from __future__ import annotations

from pathlib import Path

import pytest
from comfyui_lavie.nano import build
from comfyui_lavie.nano.__main__ import COMMANDS as NANO
from comfyui_lavie.nano.__main__ import main
from comfyui_lavie.training.__main__ import COMMANDS as TRAINING
from comfyui_lavie.training.recipe_checks import find_problems
from comfyui_lavie.training.recipe_file import read_recipe

ROOT = Path(__file__).resolve().parents[2]
OUT = Path("somewhere")
STEPS = build.steps(OUT)


def settings_of(step: build.Step) -> list[str]:
    return [value for flag, value in zip(step.arguments, step.arguments[1:], strict=False) if flag == "--set"]


@pytest.mark.parametrize("step", [step for step in STEPS if step.name.startswith("train ")], ids=lambda step: step.name)
def test_recipes_take_these_settings(step):
    recipe = read_recipe(step.arguments[1], settings_of(step))
    assert find_problems(recipe) == []
    made = [argument for before in STEPS[: STEPS.index(step)] for argument in before.arguments]
    for used in (*recipe.data.catalogues, recipe.encoders.text, recipe.encoders.vae, recipe.model.start):
        assert used == "random" or used in made or str(Path(used).parent) in made or f"run.out={used}" in made, used


def test_every_shipped_file_is_made():
    files = {path.name for path in (ROOT / "weights").rglob("*.safetensors")}
    text = " ".join(argument for step in STEPS for argument in step.arguments)
    made_by_name = {"lavie_nano_orange_lora.safetensors"}  # the command `lora` names it
    assert {name for name in files - made_by_name if name not in text} == set()
    assert any((step.room, step.arguments[0]) == ("nano", "lora") for step in STEPS)


def test_commands_exist():
    for step in STEPS:
        assert step.arguments[0] in {"nano": NANO, "training": TRAINING}[step.room]
    assert len({step.name for step in STEPS}) == len(STEPS)


def test_finished_steps_are_left_alone_and_a_failure_stops(tmp_path, monkeypatch, capsys):
    """Real processes: two that succeed, one of which is finished already, then one that fails."""
    fine, broken = build.Step("fine", "nano", ("--help",)), build.Step("broken", "nano", ("no_such_command",))
    monkeypatch.setattr(build, "steps", lambda out: [build.Step("done", "nano", ("nonsense",)), fine, broken, fine])
    (tmp_path / build.TIMES).write_text('{"done": 3}')
    assert main(["build", "--out", str(tmp_path)]) == 2
    assert "broken ended with status 2" in capsys.readouterr().err
    assert list(build.json.loads((tmp_path / build.TIMES).read_text())) == ["done", "fine"]
