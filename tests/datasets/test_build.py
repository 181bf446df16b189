"""The command `build`: from a folder of footage to a catalogue that trains; bad input, stops, repeats, two at once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from comfyui_lavie.datasets import build as command
from comfyui_lavie.datasets.blueprint import Selection, load_blueprint
from comfyui_lavie.datasets.build import FILES, FRAGMENTS, SHOTS, Work, build
from comfyui_lavie.datasets.catalogue import DUPLICATES, Catalogue, group_alike
from comfyui_lavie.datasets.errors import DataError
from comfyui_lavie.datasets.locks import locked_folder
from comfyui_lavie.datasets.parquet import iterate_rows, read_rows
from comfyui_lavie.datasets.select import select
from comfyui_lavie.datasets.sources import read_frames
from comfyui_lavie.datasets.video import encode_video
from comfyui_lavie.tests.datasets.blueprints import STAGES

BLUEPRINT = f"""{STAGES}
[select]
duplicates = 6
[select.limits]
motion = [0.3, ""]
"""


@pytest.fixture
def project(footage, tmp_path):
    """A folder with a blueprint and films: three shots in one file, a copy of one of them, one with bars."""
    films = tmp_path / "films"
    films.mkdir()
    barred = np.maximum(footage.rabbit[:40], 40)
    barred[:, :20] = barred[:, -20:] = 0
    parts = {"three": [footage.bikes[:30], footage.face[:30], footage.rabbit[20:50]], "copy": [footage.bikes[:30]],
             "bars": [barred]}  # fmt: skip
    for name, frames in parts.items():
        encode_video(np.concatenate(frames), films / f"{name}.mp4", 25)
        (films / f"{name}.txt").write_text(f"a film called {name}")
    (tmp_path / "blueprint.toml").write_text(BLUEPRINT)
    return tmp_path


def run_build(project, out="out", text=BLUEPRINT) -> Counter:
    (project / "blueprint.toml").write_text(text)
    return build(load_blueprint(project / "blueprint.toml"), project / out, Work())


def rows_of(project, out="out") -> dict[str, dict]:
    return {row["key"]: row for row in iterate_rows(project / out / SHOTS)}


def test_a_folder_becomes_a_catalogue_whose_clips_are_the_shots(project, footage):
    counts = run_build(project)
    assert counts == {"files": 3, "skipped": 0, "shots": 5, "usable": 5}
    costs = select(project / "out", load_blueprint(project / "blueprint.toml").selection)
    catalogue = Catalogue.load(project / "out")
    # The copy is kept and not the shot of the longer film: as many pixels, and earlier in the order of sources.
    reasons = {skip.key.split("/")[1].split("#")[0]: skip.reason.split(":")[0] for skip in catalogue.skipped}
    assert reasons["three.mp4"] == "near-duplicate" and costs[0].left == 5
    for cost in costs[1:]:
        assert cost.fails >= cost.alone and cost.left <= 5
    barred = next(item for item in catalogue.items if "bars" in item.key)
    assert (barred.width, barred.height, barred.locator["crop"]) == (256, 104, [0, 20, 256, 104])
    picture = read_frames(barred, [10])[0]
    assert np.abs(picture.astype(int) - np.maximum(footage.rabbit[10], 40)[20:124]).mean() < 4
    face = next(item for item in catalogue.items if "three" in item.key and item.frames == 30)
    assert face.caption == "a film called three"

    select(project / "out", Selection())  # both copies stay, and are told to training's held-out split
    catalogue = Catalogue.load(project / "out")
    marked = {item.key.split("#")[0]: item for item in catalogue.items if DUPLICATES in item.locator}
    assert set(marked) == {"films/three.mp4", "films/copy.mp4"} and len(catalogue.items) == 5
    alike = group_alike(catalogue.items)
    assert alike[marked["films/copy.mp4"].key] == alike[marked["films/three.mp4"].key]
    for side in catalogue.split(1):
        assert len({item.key for item in side.items} & {item.key for item in marked.values()}) in (0, 2)


def test_a_repeat_decodes_nothing_and_a_changed_setting_only_what_it_concerns(project):
    run_build(project)
    table = (project / "out" / SHOTS).read_bytes()
    fragments = {path: path.stat().st_mtime_ns for path in (project / "out" / FRAGMENTS).rglob("*.parquet")}
    rates = (project / "out/rates.json").read_text()
    run_build(project)
    assert (project / "out" / SHOTS).read_bytes() == table
    assert rates == (project / "out/rates.json").read_text(), "nothing was worked"
    assert fragments == {path: path.stat().st_mtime_ns for path in (project / "out" / FRAGMENTS).rglob("*.parquet")}

    run_build(project, text=BLUEPRINT.replace("[stages.motion]", "[stages.motion]\nmax_pairs = 1"))
    new = set((project / "out" / FRAGMENTS).rglob("*.parquet")) - set(fragments)
    assert Counter(path.parents[1].name for path in new) == {"motion": 3}


def test_a_file_that_goes_during_the_run_is_named_and_taken_up_when_it_is_back(project):
    blueprint = load_blueprint(project / "blueprint.toml")
    footage = list(command.find_footage(blueprint))
    shutil.move(project / "films/copy.mp4", project / "copy.mp4")
    builder = command.Builder(blueprint, project / "fragments")
    outcomes = {thing.entry.key: builder.build(thing) for thing in footage}
    assert outcomes["films/copy.mp4"].skipped.startswith("the file cannot be read")
    assert not outcomes["films/three.mp4"].skipped
    shutil.move(project / "copy.mp4", project / "films/copy.mp4")
    again = builder.build(next(thing for thing in footage if "copy" in thing.entry.key))
    assert not again.skipped and len(again.rows) == 1


def test_one_run_at_a_time_and_a_full_disk(project):
    (project / "out").mkdir()
    with locked_folder(project / "out", "a build"), pytest.raises(DataError, match="is in use: process"):
        run_build(project)
    code = f"""
import resource, sys
from pathlib import Path
from comfyui_lavie.datasets.build import build, load_blueprint, Work, DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    build(load_blueprint(Path({str(project / "blueprint.toml")!r})), Path({str(project / "out")!r}), Work())
except DataError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert "cannot write to" in result.stdout and "repeat, it goes on" in result.stdout, result.stderr
    assert not (project / "out" / SHOTS).exists()
    for fragment in (project / "out").rglob("*.parquet"):
        read_rows(fragment)  # no half of a table is left
    assert run_build(project)["shots"] == 5


def test_what_stages_lack_is_named_all_at_once_before_any_work(project):
    text = BLUEPRINT + "[stages.aesthetics]\n[stages.agreement]\n"
    with pytest.raises(DataError) as error:
        run_build(project, text=text)
    lines = str(error.value).splitlines()
    assert sum("clip-vit-large-patch14" in line for line in lines) == 2
    assert any("sac+logos+ava1-l14-linearMSE.pth" in line and "GitHub" in line for line in lines)
    assert "without them run: scenes, technical, motion, quality, duplicates, captions" in lines[-1]
    assert not (project / "out").exists()


def test_mistakes_in_a_blueprint_are_named_all_at_once(project):
    text = """
source = ["films"]
[scenes]
detector = 3
[stages.magic]
[stages.motion]
pairs = 2
[stages.agreement]
[select]
duplicates = 99
[select.limits]
motion = 3
"""
    (project / "blueprint.toml").write_text(text)
    with pytest.raises(DataError) as error:
        load_blueprint(project / "blueprint.toml")
    for part in ("source: unknown", "sources: expected a list", "detector: expected a str, got 3", "magic: unknown",
                 "pairs: unknown; expected max_pairs", "needs [stages.captions]", "duplicates: expected 0 to 31",
                 "motion: expected [least, most]"):  # fmt: skip
        assert part in str(error.value)
    (project / "blueprint.toml").write_text('sources = ["films"]\n[select.limits]\nmotion = [1, 2]\nfun = [1, 2]\n')
    with pytest.raises(DataError, match=r"motion: add \[stages.motion\]\n  fun: no stage writes it"):
        load_blueprint(project / "blueprint.toml")


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from comfyui_lavie.datasets.build import build, load_blueprint, Work
import cv2, imagehash, scenedetect, pyarrow.parquet
cv2.setNumThreads(0)
blueprint, out = load_blueprint(Path(sys.argv[1])), Path(sys.argv[2])

def start():
    child = os.fork()
    if not child:
        build(blueprint, out, Work(workers=2))
        os._exit(0)
    return child

killed, longest = 0, float(sys.argv[3])
chance = random.Random(0)
for _ in range(10):
    child = start()
    time.sleep(chance.uniform(0, longest))
    os.kill(child, signal.SIGKILL)
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
status = os.waitpid(start(), 0)[1]
print(killed, status)
"""


def test_killed_ten_times_at_random_it_ends_with_the_same_table(project):
    run_build(project, "whole")
    seconds = sum(stage["seconds"] for stage in json.loads((project / "whole/rates.json").read_text()).values())
    arguments = [project / "blueprint.toml", project / "killed", str(seconds / 4)]
    result = subprocess.run([sys.executable, "-P", "-c", KILLED, *arguments], capture_output=True, text=True)
    killed, status = map(int, result.stdout.split())
    assert killed >= 5 and status == 0, result.stderr
    for name in (SHOTS, FILES):
        assert (project / "killed" / name).read_bytes() == (project / "whole" / name).read_bytes()
