"""The commands that rebuild the small models: each is one that exists, on files that those before it make."""

from __future__ import annotations

from pathlib import Path

import pytest
from comfyui_lavie.training import nano_set
from comfyui_lavie.training.__main__ import COMMANDS
from comfyui_lavie.training.recipe_file import read_recipe

ROOT = Path(__file__).resolve().parents[1]
OUT = Path("somewhere")
STEPS = nano_set.steps(OUT)


def settings_of(step: nano_set.Step) -> list[str]:
    return [value for flag, value in zip(step.arguments, step.arguments[1:], strict=False) if flag == "--set"]


@pytest.mark.parametrize("step", [step for step in STEPS if step.name.startswith("train ")], ids=lambda step: step.name)
def test_recipes_take_these_settings(step):
    recipe = read_recipe(step.arguments[1], settings_of(step))
    assert recipe.problems() == []
    made = [argument for before in STEPS[: STEPS.index(step)] for argument in before.arguments]
    for used in (*recipe.data.catalogues, recipe.encoders.text, recipe.encoders.vae, recipe.model.start):
        assert used == "random" or used in made or str(Path(used).parent) in made or f"run.out={used}" in made, used


def test_every_shipped_file_is_made():
    files = {path.name for path in (ROOT / "weights").rglob("*.safetensors")}
    text = " ".join(argument for step in STEPS for argument in step.arguments)
    made_by_name = {"lavie_nano_orange_lora.safetensors"}  # example_lora names it
    assert {name for name in files - made_by_name if name not in text} == set()
    assert any(step.module == "example_lora" for step in STEPS)


def test_commands_exist():
    for step in STEPS:
        assert step.module in ("", "text_encoder", "vae", "example_lora", "latent_colors")
        assert step.module or step.arguments[0] in COMMANDS
    assert len({step.name for step in STEPS}) == len(STEPS)


def test_finished_steps_are_left_alone_and_a_failure_stops(tmp_path, monkeypatch, capsys):
    """Real processes: two that succeed, one of which is finished already, then one that fails."""
    fine, broken = nano_set.Step("fine", "", ("--help",)), nano_set.Step("broken", "", ("no_such_command",))
    monkeypatch.setattr(nano_set, "steps", lambda out: [nano_set.Step("done", "", ("nonsense",)), fine, broken, fine])
    (tmp_path / nano_set.TIMES).write_text('{"done": 3}')
    assert nano_set.main(["--out", str(tmp_path)]) == 2
    assert "broken ended with status 2" in capsys.readouterr().err
    assert list(nano_set.json.loads((tmp_path / nano_set.TIMES).read_text())) == ["done", "fine"]
