"""The command `load`: clips per second and core that the loader delivers, from H.264 files made on the spot."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from ..datasets.prepare import Limits, prepare
from ..datasets.video import bt709_frame, bt709_stream
from ..training.data import Bucket, DataSettings, TrainingData, render

GRAIN, BALLS = 6.0, 12  # strength of noise, of 255; moving discs
DESCRIPTION = """\
How fast clips are read: videos of moving discs, a panning background and grain are encoded by x264 as cameras' files
usually are (key frames at most 250 frames apart, three B-frames), prepared, and drawn as a training draws them. Time is
the CPU's, of one thread, so other work on the machine changes little.
"""
EPILOG = """\
examples:
  load
  load --size 1920x1080 --clip 16x320x512 --count 20
  load --video film.mp4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("--video", type=Path, help="a file of your own instead, of at least 46 frames")
    parser.add_argument("--size", type=_numbers, default=(1280, 720), metavar="WxH", help="of videos (1280x720)")
    parser.add_argument("--frames", type=int, default=300, help="of videos (default: 300)")
    parser.add_argument("--clip", type=_numbers, default=(16, 320, 512), metavar="FxHxW", help="default: 16x320x512")
    parser.add_argument("--stride", type=_numbers, default=(3, 10), metavar="LOWxHIGH", help="default: 3x10")
    parser.add_argument("--count", type=int, default=10, help="clips to read (default: 10)")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "videos"
        source.mkdir()
        if args.video:
            (source / args.video.name).symlink_to(args.video.resolve())
        else:
            make_video(source / "0.mp4", args.frames, *args.size)
        catalogue = prepare([source], Path(folder) / "catalogue", Limits(), "a film", decode=False, progress=False)
        if not catalogue.items:
            raise ValueError(f"{args.video}: {catalogue.skipped[0].reason}")
        bucket = Bucket(*args.clip, rows=1)
        settings = DataSettings((folder,), (bucket,), images=0, stride=args.stride)
        data = TrainingData(settings, catalogue)
        draws = [data.plan(0, step)[0] for step in range(args.count)]
        seconds = measure_reading(draws)
    rate = len(draws) / sum(seconds)
    (item,) = catalogue.items
    megabits = item.locator["bytes"] * 8e-6 * item.fps / item.frames
    print(f"{len(draws)} clips of {'x'.join(map(str, args.clip))} from {args.video.name if args.video else 'H.264'}, "
          f"{item.width}x{item.height}, {megabits:.1f} Mbit/s, strides "
          f"{args.stride[0]} to {args.stride[1]}: {rate:.2f} clips per second and core "
          f"(median {np.median(seconds):.3f} s, slowest {max(seconds):.3f} s)")
    return 0


def measure_reading(draws) -> list[float]:
    """CPU seconds of this thread for each draw."""
    seconds = []
    for draw in draws:
        begun = time.thread_time()
        render(draw)
        seconds.append(time.thread_time() - begun)
    return seconds


def make_video(path: Path, frames: int, width: int, height: int) -> None:
    """Discs that move over a panning pattern, with grain."""
    import av

    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, : 2 * width]
    pattern = 128 + 50 * np.sin(columns / 37) * np.cos(rows / 23)
    begin, speed = rng.uniform(0, (width, height), (BALLS, 2)), rng.uniform(-6, 6, (BALLS, 2))
    radius, colour = rng.uniform(0.03, 0.12, BALLS) * height, rng.uniform(0, 255, (BALLS, 3))
    grain = rng.normal(0, GRAIN, (height + 64, width + 64, 1))
    with av.open(str(path), "w") as container:
        stream = bt709_stream(container, 24, height, width, preset="veryfast", crf="23")
        for t in range(frames):
            picture = np.repeat(pattern[:, 2 * t % width :][:, :width, None], 3, axis=2)
            for ball in range(BALLS):
                x, y = (begin[ball] + t * speed[ball]) % (width, height)
                picture[(columns[:, :width] - x) ** 2 + (rows[:, :width] - y) ** 2 < radius[ball] ** 2] = colour[ball]
            top, left = rng.integers(64, size=2)
            picture = picture + grain[top : top + height, left : left + width]
            container.mux(stream.encode(bt709_frame(np.clip(picture, 0, 255).astype(np.uint8))))
        container.mux(stream.encode())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.lower().split("x")))
