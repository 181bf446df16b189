"""Footage of every odd kind in one folder through one `build`: each file is used as it is shown, or named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from comfyui_lavie.datasets.blueprint import load_blueprint
from comfyui_lavie.datasets.build import FILES, SHOTS, Work, build
from comfyui_lavie.datasets.parquet import iterate_rows
from comfyui_lavie.tests.datasets.test_shown import with_matrix, write_interlaced
from comfyui_lavie.tests.media import write_sound, write_video, zero_middle

BLUEPRINT = 'sources = ["films"]\n[scenes]\nmin_seconds = 0.5\nmax_seconds = 60\n[stages.technical]\n'
PQ, BT2020 = 16, 9  # of ITU-T H.273


def moving(width: int = 64, height: int = 36, count: int = 30) -> np.ndarray:
    """Blocks of noise that move to the right, a pixel a frame."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    picture = noise.repeat(4, 0).repeat(4, 1)
    return np.stack([np.roll(picture, step, 1) for step in range(30)])[:count]


def encoded(path: Path, frames: np.ndarray, pixels: str = "yuv420p", rate=25, **facts) -> None:
    """H.264 of a pixel format; `facts` are set on the codec context."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate), options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for name, value in facts.items():
            setattr(stream.codec_context, name, value)
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)))
        container.mux(stream.encode())


def turned(path: Path, matrix: tuple[int, int, int, int]) -> None:
    with_matrix(write_video(path.with_suffix(".mov"), moving(), fps=25), matrix).rename(path)
    path.with_suffix(".mov").unlink()


def cut_in_half(path: Path) -> None:
    content = write_video(path, moving()).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def hour(path: Path) -> None:
    encoded(path, np.broadcast_to(moving(count=1), (1200, 36, 64, 3)), rate=Fraction(1, 3))


# What writes each file, and columns of all its shots or how the reason begins for which it has none.
ODD: dict[str, tuple[Callable[[Path], object], dict | str]] = {
    "plain.mp4": (
        lambda path: write_video(path, moving(), fps=25),
        {"width": 64, "height": 36, "frames": 30, "fps": 25.0, "hdr": "SDR", "turned": False, "interlaced": False,
         "variable_rate": False, "pixel_aspect": 1.0, "sound": False, "unusable": None, "frozen": 0.0},
    ),
    "hour.mp4": (hour, {"frames": 20, "seconds": pytest.approx(60, rel=1e-5), "unusable": None}),
    "variable.mkv": (
        lambda path: write_video(path, moving(), fps=25, ticks=[100 * i + 100 * (i // 2) for i in range(30)]),
        {"variable_rate": True, "frames": 30, "unusable": None},
    ),
    "hdr.mp4": (
        lambda path: encoded(path, moving(), "yuv420p10le", color_trc=PQ, color_primaries=BT2020, colorspace=BT2020),
        {"hdr": "PQ", "pixel_format": "yuv420p10le", "unusable": None},
    ),
    "interlaced.mp4": (
        lambda path: write_interlaced(path, moving(height=64)[0, ..., 0], 30, "tff"),
        {"interlaced": True, "height": 64, "unusable": None},
    ),
    "anamorphic.mp4": (
        lambda path: encoded(path, moving(), sample_aspect_ratio=Fraction(3, 2)),
        {"pixel_aspect": 1.5, "width": 96, "height": 36, "unusable": None},
    ),
    "rotated.mp4": (lambda path: turned(path, (0, 1, -1, 0)), {"turned": True, "width": 36, "height": 64}),
    "mirrored.mp4": (lambda path: turned(path, (-1, 0, 0, 1)), {"turned": True, "width": 64, "height": 36}),
    "portrait.mp4": (lambda path: write_video(path, moving(36, 64), fps=25), {"width": 36, "height": 64}),
    "sound.mp4": (lambda path: write_video(path, moving(), fps=25, sound=True), {"sound": True, "unusable": None}),
    "one frame.mp4": (lambda path: write_video(path, moving(count=1)), {"frames": 1, "unusable": "too short: 1 of at"
                      " least 16 frames"}),
    "fast.mp4": (lambda path: write_video(path, moving(), fps=100), {"fps": 100.0, "unusable": "too short: 0.30 of at"
                 " least 0.5 seconds"}),
    "gap.mp4": (lambda path: write_video(path, moving(), fps=25, ticks=[100 * i + 6000 * (i >= 15) for i in range(30)]),
                {"frames": 15}),
    "sound alone.mp4": (write_sound, "no video stream, only sound"),
    "empty.mp4": (Path.touch, "not a readable video"),
    "nothing.webm": (lambda path: write_video(path, moving(count=0)), "a video without frames"),
    "damaged.mp4": (lambda path: zero_middle(write_video(path, moving())), "not a readable video"),
    "cut.mkv": (cut_in_half, "cut short"),
    "still.png": (Path.touch, "an image: `prepare` makes catalogues of images"),
    "notes.md": (Path.touch, "not a kind of video"),
}  # fmt: skip
SHOTS_OF = {"hour.mp4": 60, "gap.mp4": 2}  # the others have one


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(counts, {name: row of the file}, {name: rows of its shots})."""
    project = tmp_path_factory.mktemp("odd")
    (project / "films").mkdir()
    for name, (write, _) in ODD.items():
        write(project / "films" / name)
    (project / "blueprint.toml").write_text(BLUEPRINT)
    counts = build(load_blueprint(project / "blueprint.toml"), project / "out", Work())
    files = {row["key"].removeprefix("films/"): row for row in iterate_rows(project / "out" / FILES)}
    shots: dict[str, list[dict]] = {name: [] for name in files}
    for row in iterate_rows(project / "out" / SHOTS):
        shots[row["key"].removeprefix("films/").split("#")[0]].append(row)
    return counts, files, shots


@pytest.mark.parametrize("name", ODD)
def test_what_becomes_of_it(built, name):
    _, files, shots = built
    expected = ODD[name][1]
    if isinstance(expected, str):
        assert files[name]["reason"].startswith(expected) and not shots[name]
        return
    assert files[name]["reason"] is None and len(shots[name]) == SHOTS_OF.get(name, 1)
    for row in shots[name]:
        assert {column: row[column] for column in expected} == expected


def test_everything_is_counted(built):
    counts, files, shots = built
    skipped = sum(isinstance(expected, str) for _, expected in ODD.values())
    assert files.keys() == ODD.keys() and counts["files"] == len(ODD) and counts["skipped"] == skipped
    usable = Counter(name for name, rows in shots.items() for row in rows if not row["unusable"])
    assert counts["shots"] == sum(map(len, shots.values())) and counts["usable"] == usable.total()
    for name, row in files.items():
        assert (row["shots"], row["usable"]) == (len(shots[name]), usable[name])
