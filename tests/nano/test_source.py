"""Generated clips and images as a source of data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from comfyui_lavie.datasets.catalogue import Catalogue
from comfyui_lavie.datasets.sources import read_frames
from comfyui_lavie.nano.__main__ import main
from comfyui_lavie.nano.shapes import THINGS, WIDE, caption, render, render_image, sample_scene
from comfyui_lavie.nano.source import shapes


def command(*arguments) -> int:
    return main(["data", *map(str, arguments)])


def test_shapes(tmp_path, capsys):
    assert command("--out", tmp_path, "videos=3,images=2,size=32,frames=8,split=heldout") == 0
    items = Catalogue.load(tmp_path).items
    assert [(i.kind, i.frames, i.width) for i in items] == [("video", 8, 32)] * 3 + [("image", 1, 32)] * 2
    assert {i.locator["split"] for i in items} == {"heldout"}
    assert "3 videos" in capsys.readouterr().out


def test_shapes_of_some_words(tmp_path):
    assert command("--out", tmp_path, "videos=9,images=9,videos_of=blue+cyan+car+up") == 0
    videos, images = ([i for i in Catalogue.load(tmp_path).items if i.kind == kind] for kind in ("video", "image"))
    assert {i.caption.split(" on a ")[0] for i in videos} == {"a blue car moving up", "a cyan car moving up"}
    assert any("car" not in i.caption for i in images)


def test_images_of_chosen_words_alone(tmp_path):
    assert command("--out", tmp_path, "videos=9,images=9,images_of=fish+rocket", "images=3,images_of=square") == 0
    items = Catalogue.load(tmp_path).items
    things = [{w for w in i.caption.split() if w in THINGS} for i in items if i.kind == "image"]
    assert set().union(*things[:9]) == {"fish", "rocket"}
    assert set().union(*things[9:]) == {"square"}
    assert any("square" in i.caption or "car" in i.caption for i in items if i.kind == "video")


def test_shapes_are_the_generator_s():
    items = list(shapes(videos=2, images=2, split="heldout", size=32, frames=8))
    assert [item.kind for item in items] == ["video", "video", "image", "image"]
    assert len({item.key for item in items}) == 4
    scene = sample_scene(items[1].locator["seed"], "heldout")
    assert items[1].caption == caption(scene, "video")
    assert np.array_equal(read_frames(items[1], range(1, 8, 2)), render(scene, 8, 32)[1::2])
    scene = sample_scene(items[3].locator["seed"], "heldout")
    assert items[3].caption == caption(scene, "image")
    assert np.array_equal(read_frames(items[3], [0])[0], render_image(scene, 32))
    json.dumps([item.locator for item in items])


def test_shapes_of_another_variation():
    (plain,), (wide,) = (list(shapes(videos=1, images=0, frames=8, variation=name)) for name in ("low", "wide"))
    assert plain.key != wide.key
    assert np.array_equal(read_frames(wide, range(8)), render(sample_scene(0, variation=WIDE), 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("videos=many", "videos: expected a whole number of 1 or more, got 'many'"),
        ("videos=1,colour=red", "split, videos_of, images_of, variation, got 'colour'"),
        ("videos=1,videos_of=red+orange", "down, black, gray, white, got 'orange'"),
        ("images=1,images_of=orange", "images_of: expected some of red, green"),
        (
            "videos=1,split=heldout,videos_of=red+fish+right",
            "videos_of: no caption of this split has only the words red+fish+right",
        ),
        (
            "images=1,split=heldout,images_of=red+fish+right",
            "images_of: no caption of this split has only the words red+fish+right",
        ),
        ("size=64", "videos or images of 1 or more"),
        ("videos=1,split=test", "split of train, heldout or all"),
        ("videos=1,variation=high", "variation of low or wide, got high"),
    ],
)
def test_arguments_out_of_range(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        command("--out", tmp_path, arguments)
    assert caught.value.code == 2 and message in capsys.readouterr().err
