"""Commands that texts name: there is such a command, and it takes the options that stand behind it."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex

import pytest
from comfyui_lavie.place import ROOT
from comfyui_lavie.tests.repository.test_house import TRACKED

ROOMS = {
    room: importlib.import_module(f"comfyui_lavie.{room}.__main__").COMMANDS
    for room in ("training", "datasets", "evaluation", "bench", "nano")
}
MODULE = re.compile(r"-m comfyui_lavie\.(?P<module>[a-z_.]*[a-z_])(?P<rest>[^\n`]*)")
BY_COMMAND = [(room, command) for room, commands in ROOMS.items() for command in commands]
TEXTS = [ROOT / name for name in TRACKED if name.endswith((".py", ".md", ".toml")) and (ROOT / name).exists()]


def parser_of(room: str, command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(f"comfyui_lavie.{room}.{ROOMS[room][command][0]}").add_arguments(parser)
    return parser


def test_what_texts_tell_to_run_can_be_run():
    named = 0
    for file in TEXTS:
        for found in MODULE.finditer(file.read_text(encoding="utf-8").replace("\\\n#", "").replace("\\\n", "")):
            text, words = found.group(), found["rest"].partition(" #")[0].split()
            place = ROOT / found["module"].replace(".", "/")
            main = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
            assert main.exists() and "__name__ ==" in main.read_text(encoding="utf-8"), (file, text)
            if found["module"] in ROOMS and words and re.fullmatch("[a-z_]+", words[0]):
                assert words[0] in ROOMS[found["module"]], (file, text)
                options = {word.partition("=")[0].strip(".,;:)\"'") for word in words if word.startswith("--")}
                known = parser_of(found["module"], words[0])._option_string_actions
                assert options <= known.keys(), (file, text)
                named += 1
    assert named > 50


def test_none_is_told_to_put_the_root_on_the_path():
    """Without -P, `import nodes` of ComfyUI's finds ours. Launchers of several processes have no such option."""
    for file in TEXTS:
        assert not re.search(r"python3? -m comfyui_lavie", file.read_text(encoding="utf-8")), file


@pytest.mark.parametrize(("room", "command"), BY_COMMAND, ids=["-".join(pair) for pair in BY_COMMAND])
def test_the_examples_of_its_help_are_understood(room, command):
    parser = parser_of(room, command)
    _, _, examples = (parser.epilog or "").replace("\\\n", " ").partition("examples:\n")
    lines = [line for line in examples.splitlines() if line.split()[:1] == [command]]
    assert lines or not examples.strip()
    for line in lines:
        parser.parse_args(shlex.split(line.partition(" >")[0], comments=True)[1:])
