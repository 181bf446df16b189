"""Thumbnails of the templates: what each makes of a prompt of its own, by the nano models; before and after.

Contract: squares, for the template browser cuts everything else. Videos come from a running server.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...comfyui_api.graphs import last_saved, saved_files, to_api
from ...comfyui_api.server import ComfyUIServer
from ...datasets.video import decode_video, encode_video
from .designs import Design
from .graph import origins
from .templates import BASE_FPS, EXAMPLE_PICTURE, EXAMPLE_VIDEO, NANO, TEMPLATES, USES, ModelSet

CELL, CELL_GAP, STRIP = 192, 4, 28  # pixels of a frame (of a small one less), between frames, of the caption below
WIDTH = 2 * CELL + CELL_GAP
SPARSE = 4  # of a video that is to be interpolated every so many-th frame is given
BEFORE, AFTER = "before", "after"  # written on rows of frames
CENTRE = 0.75  # of a frame's edges is seen where size is what matters: so large that a pixel is seen
Row = Sequence[np.ndarray]  # frames side by side, uint8 (H, W, 3)


class Shown(NamedTuple):
    """What a thumbnail shows: a prompt, and what it becomes where the template has another one."""

    prompt: str
    other: str = ""

    def model_set(self) -> ModelSet:
        return NANO._replace(prompt=self.prompt, new_prompt=self.other, lora_prompts=tuple(self))


SHOWN = (  # in the order of TEMPLATES
    Shown("a purple car moving right on a gray background"),
    Shown("a red fish moving right on a white background"),
    Shown("a green car moving left on a black background"),
    Shown("a purple square moving up on a white background"),
    Shown("a red car moving left on a gray background"),
    Shown("a red circle moving right on a gray background", "a yellow circle moving right on a gray background"),
    Shown("a purple circle moving up on a gray background"),
    Shown("a green fish moving left on a white background"),
    Shown("a yellow car moving right on a gray background"),
    Shown("a cyan square moving down on a black background"),
    Shown("a red triangle moving left on a white background"),
    Shown("a purple rocket moving up on a black background"),
    Shown("a green square moving up on a gray background", "a yellow square moving up on a gray background"),
    Shown("a blue car moving left on a white background"),
    Shown("a cyan triangle moving down on a gray background", "a orange triangle moving down on a gray background"),
    Shown("a red circle moving down on a black background"),
)


def make_video(server: ComfyUIServer, use: str, model_set: ModelSet = NANO) -> bytes:
    """What a use makes with the nano models."""
    info = server.object_info()
    api = to_api(Design(model_set, use, info, origins()).build(), info)
    return server.fetch(last_saved(api, server.run(api), ".mp4"))


def cascade_side_by_side(server: ComfyUIServer) -> np.ndarray:
    """The three stages of the cascade of the small models at the same moments, uint8 (F, H, 3 W and gaps, 3)."""
    name = next(name for name, template in TEMPLATES.items() if template == (NANO, "cascade"))
    info, model_set = server.object_info(), SHOWN[list(TEMPLATES).index(name)].model_set()
    outputs = server.run(to_api(Design(model_set, "cascade", info, origins()).build(), info))
    stages = sorted((decode_video(server.fetch(file)) for file in saved_files(outputs, ".mp4")), key=lambda v: v.size)
    count, height = stages[-1].shape[:2]
    gap = np.full((count, height, 2 * CELL_GAP, 3), 255, np.uint8)
    panes = []
    for frames in stages:
        seen = frames[np.linspace(0, len(frames) - 1, count).astype(int)]  # a frame stays until the next one
        panes += [seen.repeat(height // seen.shape[1], 1).repeat(height // seen.shape[2], 2), gap]
    return np.concatenate(panes[:-1], axis=2)


def make_examples(server: ComfyUIServer) -> None:
    """Give the server the video and the picture that some workflows ask for: the nano model's own, and its frame."""
    video = make_video(server, "text_to_video")
    server.add_input(EXAMPLE_VIDEO, video)
    server.add_input(EXAMPLE_PICTURE, _png(decode_video(video)[0]))


def write_thumbnails(server: ComfyUIServer, files: Iterable[Path]) -> None:
    """The picture of each template, by the name of its file. Raises WorkflowError."""
    shown = dict(zip(TEMPLATES, SHOWN, strict=True))
    for file in files:
        template = TEMPLATES[file.stem]
        small = "" if template.model_set is NANO else "shown with the small models"
        rows = frame_rows(server, template.use, shown[file.stem])
        thumbnail([row for _, row in rows], small, [label for label, _ in rows]).save(file, quality=90)


def frame_rows(server: ComfyUIServer, use: str, shown: Shown) -> list[tuple[str, Row]]:
    """What is seen of a use, rows of frames with what is written on them: before and after where it changes a clip.

    Of interpolation four rows: the frames given, then those that are made of them.
    """
    model_set, (stages, start, way) = shown.model_set(), USES[use]
    given = None if start == "prompt" and len(stages) == 1 else _base_video(server, model_set)
    if start == "video":
        given = given[::SPARSE] if stages == ("interpolation",) else given
        server.add_input(EXAMPLE_VIDEO, _mp4(given))
    elif start == "pictures":
        server.add_input(EXAMPLE_PICTURE, _png(given[0]))
    made = decode_video(make_video(server, "text_to_video" if way == "few_steps" else use, model_set))
    if stages == ("interpolation",):
        after = [made[at : at + SPARSE] for at in range(0, len(made) - 1, SPARSE)]
        return [(BEFORE, given), (AFTER, after[0]), *(("", row) for row in after[1:])]
    if given is None or start == "pictures":
        first, second, third, last = spread(made, 4)
        return [("", [first, second]), ("", [third, last])]
    if way == "extension":
        return [(BEFORE, spread(given, 2)), (AFTER, spread(made[len(given) :], 2))]
    if "super_resolution" in stages:  # from the middle of the clip, where things are in the middle of the frame
        rows = ([_centre(frame) for frame in spread(frames, 4)[1:3]] for frames in (given, made))
        return list(zip((BEFORE, AFTER), rows, strict=True))
    return [(BEFORE, spread(given, 2)), (AFTER, spread(made, 2))]


def spread(frames: np.ndarray, count: int) -> Row:
    """So many of the frames, evenly spaced in time."""
    return [frames[at] for at in np.linspace(0, len(frames) - 1, count).round().astype(int)]


def _centre(frame: np.ndarray) -> np.ndarray:
    edge = round(len(frame) * (1 - CENTRE) / 2)
    return frame[edge:-edge, edge:-edge]


def thumbnail(rows: Sequence[Row], caption: str = "", labels: Sequence[str] = ()) -> Image.Image:
    """Rows of frames, and a line of text below them, in a square; a label on each row where there is one."""
    edge = WIDTH + STRIP
    picture = Image.new("RGB", (edge, edge), "black")
    cell = (WIDTH - CELL_GAP * (len(rows[0]) - 1)) // len(rows[0])
    left = (edge - WIDTH) // 2
    for line, row in enumerate(rows):
        for column, frame in enumerate(row):
            whole = cell % frame.shape[0] == 0
            kind = Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
            place = (left + column * (cell + CELL_GAP), line * (cell + CELL_GAP))
            picture.paste(Image.fromarray(frame).resize((cell, cell), kind), place)
    font, draw = ImageFont.load_default(17), ImageDraw.Draw(picture)
    for line, label in enumerate(labels):
        draw.text((left + 6, line * (cell + CELL_GAP) + 4), label, "white", font, stroke_width=2, stroke_fill="black")
    draw.text((edge // 2, WIDTH + STRIP // 2), caption, "silver", font, anchor="mm")
    return picture


def _base_video(server: ComfyUIServer, model_set: ModelSet) -> np.ndarray:
    return decode_video(make_video(server, "text_to_video", model_set))


def _mp4(frames: np.ndarray) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        encode_video(frames, file := Path(folder) / "given.mp4", int(BASE_FPS))
        return file.read_bytes()


def _png(frame: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "png")
    return file.getvalue()
