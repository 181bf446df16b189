"""Runs that lose part of their data, their process or their place: what is lost is a sample, not the run."""

import json
import os
import shutil
import signal
import threading
import time

import pytest
import torch
from comfyui_lavie.datasets.catalogue import Catalogue
from comfyui_lavie.datasets.errors import DataError
from comfyui_lavie.datasets.locks import locked_folder
from comfyui_lavie.datasets.prepare import Limits, prepare
from comfyui_lavie.tests.media import numbered, write_image, write_video
from comfyui_lavie.tests.tiny_training import SIZES, tiny_recipe
from comfyui_lavie.training.checkpoints import Checkpoints, OtherRunError
from comfyui_lavie.training.data import TrainingData
from comfyui_lavie.training.ending import BadSamples
from comfyui_lavie.training.loop import Training
from comfyui_lavie.training.reading import Reader, UnreadableDataError
from comfyui_lavie.training.train import train


@pytest.fixture
def footage(tmp_path):
    """20 images of a folder, prepared."""
    folder = tmp_path / "footage"
    folder.mkdir()
    for i in range(20):
        write_image(folder / f"{i:02}.png", 40, 40, seed=i)
    prepare([folder], tmp_path / "catalogue", Limits(), "a picture", progress=False)
    return folder


def recipe_in(tmp_path, name, **values):
    """Images alone, so small that 200 steps take seconds."""
    shared = {
        "model__start": "random", "model__config": {**SIZES, "block_channels": [32, 32]}, "samples__every": 0,
        "validation__every": 0, "validation__heldout": 0, "run__steps": 200, "run__save_every": 1000,
        "data__buckets": [{"frames": 1, "height": 32, "width": 32, "rows": 2}], "data__max_bad": 0.3,
    }  # fmt: skip
    return tiny_recipe("nano_images", tmp_path / name, tmp_path / "catalogue", **{**shared, **values})


def weights(folder):
    return Checkpoints(folder).load()["model"]


def break_files(footage):
    """A tenth of the footage: one file is cut short, one goes."""
    cut = footage / "03.png"
    cut.write_bytes(cut.read_bytes()[:100])
    (footage / "11.png").unlink()


def test_200_steps_over_broken_footage_end_with_the_same_weights(footage, tmp_path, caplog):
    """By other numbers of threads; and what was missed is named and counted."""
    break_files(footage)
    for name, workers in (("one", 1), ("two", 3)):
        Training(recipe_in(tmp_path, name, run__workers=workers)).run()
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    rows = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 200 and 20 <= sum(row["bad"] for row in rows) <= 70  # of 400 samples, a tenth is expected
    assert "2 of 20 files are gone or changed" in caplog.text
    assert caplog.text.count("footage/03.png: its content has changed") == 2, "once in each run"
    timed = ("waiting_seconds", "reading_seconds", "encoding_seconds", "network_seconds", "optimiser_seconds")
    assert all(row[name] >= 0 for row in rows for name in timed)
    assert all(row["waiting_seconds"] + row["network_seconds"] <= row["seconds"] + 2e-4 for row in rows)


def test_too_much_broken_footage_ends_the_run_with_its_state_saved(footage, tmp_path):
    for path in sorted(footage.glob("*.png"))[:10]:
        path.unlink()
    recipe = recipe_in(tmp_path, "run", data__buckets=[{"frames": 1, "height": 32, "width": 32, "rows": 20}])
    training = Training(recipe)
    with pytest.raises(UnreadableDataError, match=r"samples could not be read, more than data\.max_bad = 0\.3"):
        training.run()
    assert 0 < training.step < 200 and Checkpoints(tmp_path / "run").load()["step"] == training.step


def test_nothing_left_to_read_is_said():
    samples = BadSamples(0.1)
    samples.check(50, 100)  # few samples say little
    with pytest.raises(UnreadableDataError, match="60 of the last 200"):
        samples.check(10, 100)


def test_touched_and_copied_data_goes_on_changed_data_is_named(footage, tmp_path):
    recipe = recipe_in(tmp_path, "run", run__steps=2)
    Training(recipe).run()
    for path in footage.iterdir():
        os.utime(path, (0, 0))
    shutil.copytree(footage, tmp_path / "elsewhere" / "footage")
    shutil.rmtree(footage)
    prepare([tmp_path / "elsewhere" / "footage"], tmp_path / "catalogue", Limits(), "a picture", progress=False)
    Training(recipe_in(tmp_path, "run", run__steps=4)).run()
    write_image(tmp_path / "elsewhere" / "footage" / "05.png", 40, 40, seed=99)
    prepare([tmp_path / "elsewhere" / "footage"], tmp_path / "catalogue", Limits(), "a picture", progress=False)
    longer = recipe_in(tmp_path, "run", run__steps=5)
    with pytest.raises(OtherRunError, match=r"1 changed: footage/05\.png\).*--accept-data"):
        Training(longer)
    Training(longer, accept_data=True).run()
    assert Checkpoints(tmp_path / "run").load()["step"] == 5
    (note,) = map(json.loads, (tmp_path / "run" / "notes.jsonl").read_text().splitlines())
    assert note["step"] == 4 and note["data"] == Training(longer).settings["data"]
    assert note["note"] == "went on with other data: 1 changed: footage/05.png"
    Training(longer)  # from now on that is its data


def test_one_run_in_a_folder(footage, tmp_path):
    recipe = recipe_in(tmp_path, "run")
    (tmp_path / "run").mkdir()
    with locked_folder(tmp_path / "run", "training"):
        with pytest.raises(DataError, match=f"is in use: process {os.getpid()} on"):
            train(recipe)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_signal_ends_the_run_after_a_whole_step(footage, tmp_path):
    training, before = Training(recipe_in(tmp_path, "run", run__steps=100000)), signal.getsignal(signal.SIGTERM)

    def end():
        while training.step < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        training.run()
    thread.join()
    state = Checkpoints(tmp_path / "run").load()
    assert state["step"] == training.step >= 2
    assert all(torch.equal(state["model"][key], value) for key, value in training.parameters.items())
    assert signal.getsignal(signal.SIGTERM) == before


def test_reading_ahead_changes_nothing_and_is_bounded(tmp_path):
    """Shares of several threads are those of one; with room for one share alone, one is read at a time."""
    (tmp_path / "clips").mkdir()
    for i in range(4):
        write_video(tmp_path / "clips" / f"{i}.mp4", numbered(20 + i))
    prepare([tmp_path / "clips"], tmp_path / "catalogue", Limits(), "numbers", progress=False)
    settings = tiny_recipe("base", tmp_path, tmp_path / "catalogue", data__images=0, data__stride=[1, 2]).data
    data, reader = TrainingData(settings, Catalogue.load(tmp_path / "catalogue")), Reader(False)
    alone = [reader.read(data, 0, step) for step in range(6)]
    begun = []
    planned = (begun.append(step) or step for step in range(6))
    for workers, room in ((3, float("inf")), (2, 1)):
        ahead = reader.read_ahead(data, 0, range(6), workers=workers, max_bytes=room)
        for share, other in zip(ahead, alone, strict=True):
            assert share.draws == other.draws
            assert all((a == b).all() for a, b in zip(share.pixels, other.pixels, strict=True))
    shares = reader.read_ahead(data, 0, planned, workers=2, max_bytes=1)
    next(shares)
    assert begun == [0, 1], "the next step is planned, and read when the first is given away"
    shares.close()


def test_a_network_is_not_saved_in_the_middle_of_the_optimiser(footage, tmp_path):
    """An error in between leaves the checkpoint before."""
    training = Training(recipe_in(tmp_path, "run", run__steps=10, run__save_every=2))
    def fail(*_):
        raise RuntimeError("out of memory")

    def watch(*_):
        if training.step == 3:
            training.optimizer.optimizer.register_step_post_hook(fail)

    training.watch = watch
    with pytest.raises(RuntimeError, match="out of memory"):
        training.run()
    assert Checkpoints(tmp_path / "run").load()["step"] == 2
