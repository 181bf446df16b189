"""docs/long_video.md and its picture, made of what was measured."""

from __future__ import annotations

import math
from pathlib import Path

from ..evaluation.statistics import Estimate, Rate, student_mean
from ..tables import markdown_table
from .long_video_measure import CLIP, RECURSIONS, SLOW, Measured, Video, Way
from .plots import write_lines

HEAD = """\
# Long videos

LaVie was trained on clips of {clip} frames. Three ways lead beyond:

- **Context windows** (`LaVie 10 Long video in windows`): all frames are sampled together, in windows of {clip} that
  share 8 with their neighbours and are blended at every step. FreeNoise repeats the first window's noise along the
  video. A **loop** (`LaVie 12 Looping video`) lets the windows go on from the last frame to the first.
- **LaVie Extend Video** (`LaVie 11 Long video clip by clip`): clip after clip; each begins with the last 4 frames of
  what there is, held by a mask. Works with the published base.
- **The first-frame-conditioned base, recursively**, as in the paper: LaVie Extend Video with such a model and
  overlap 1, both chosen in the template (`LaVie 09 Your video goes on`). {first_frame}

Measured on the nano model (a base whose SHA-256 begins with {base}), {videos} videos of each, every second caption
naming a background, held out from training; {recursions} extensions of a first clip of {clip} frames;
{steps} Euler steps, guidance of the workflows, seeds 0 to {last}. Written by
`python -P -m comfyui_lavie.nano long_video`; {seconds:.0f} s here. Intervals are 95 %: Student's of
means, Wilson's of rates.

- seam: mean difference of neighbouring frames where a clip or window begins, in parts of that elsewhere; 1 is no seam;
- end to start: the same where the last frame would be followed by the first, which a loop is to make 1;
- direction: that of the prompt, if the part goes {slow:.0f} pixels at least;
- drift: distance of the mean colour of the last part from that of the first clip, of 255;
- named, open: captions that name a background, and captions that leave it open.

Context windows keep the look without seams, but look at direction: neighbouring windows each want the thing to cross
the picture, and blended at every step it stands still in all parts but the last and, in half of the videos, the first.
Noise of its own for every window does not change that; with a smaller overlap the first part stands still, too.
FreeNoise keeps what the prompt leaves open. A loop closes without a seam, and has to come back to where it began: a
thing that goes one way would have to leave the picture and come in again, which no clip of training shows.

**Extended clips go the way the prompt says in every part, nine times of ten**; their seams are the price. Sharing 8
frames instead of 4 makes seams and drift smaller, for half as much work again, and costs some of the direction: so
the node shares 4. What is left of the seams is motion: the nano model has mostly seen things that cross the middle in
{clip} frames, so a thing that has reached the edge begins again. Frames held under the highest noise say nothing:
there the network decides anew what the prompt leaves open, which is what *denoise* 1 shows; with the default of 0.8
new frames start from the last one, below that noise. With every way, a background that the prompt names stays.

"""


def mean(values: list[float]) -> str:
    """With Student's interval where there is more than one value; what could not be measured (NaN) is left out."""
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    found = student_mean(values)
    return f"{found.value:.1f} ± {found.high - found.value:.1f}"


def row(way: Way, videos: list[Video]) -> list[str]:
    """A way's line in the first table."""
    cells = [mean([video.end_to_start for video in videos])]
    for named in (True, False):
        chosen = [video for video in videos if video.scene.background_named == named]
        cells += [mean([video.seam for video in chosen]), mean([video.parts[-1].drift for video in chosen])]
    return [way.name, *cells]


def rows_by_part(way: Way, videos: list[Video]) -> list[list[str]]:
    """A way's lines in the second table, one for each part."""
    lines = []
    for number in range(1 + RECURSIONS):
        parts = [video.parts[number] for video in videos]
        seam = mean([part.seam for part in parts])
        cells = [way.name if number == 0 else "", str(number), seam, mean([part.drift for part in parts])]
        for name in ("color", "thing", "direction"):
            rate = Rate(name, sum(getattr(part, name) for part in parts), len(parts))
            cells.append(rate.estimate.text())
        lines.append(cells)
    return lines


def page(measured: Measured, steps: int, seconds: float, base: str) -> str:
    """The whole document; `base`, the first digits of the digest of the base's file."""
    count = len(measured[0][1])
    missing = "No trained weights of it are published, and none were measured here."
    told = (
        "The nano base of that kind is measured; none is published.\n  Its clips are slow, 5 to 6 pixels each (see its "
        "recipe)."
    )
    first_frame = told if any(way.first_frame for way, _ in measured) else missing
    head = HEAD.format(
        clip=CLIP, recursions=RECURSIONS, videos=count, last=count - 1, steps=steps, seconds=seconds,
        first_frame=first_frame, base=base, slow=SLOW,
    )  # fmt: skip
    heads = ["way", "end to start", "seam, named", "drift, named", "seam, open", "drift, open"]
    ways = markdown_table(heads, [row(*one) for one in measured])
    by_part = markdown_table(
        ["way", "part", "seam", "drift", "colour", "thing", "direction"],
        [line for one in measured for line in rows_by_part(*one)],
    )
    told = "By part: 0 is the first clip, 1 what the first extension adds, and so on.\n\n![By part](long_video.svg)"
    return f"{head}{ways}\n\n{told}\n\n{by_part}\n"


def plot(measured: Measured, path: Path) -> None:
    """Direction and drift of each way by part."""

    def by_part(value) -> dict[str, list[Estimate]]:
        return {way.name: [value([video.parts[n] for video in videos]) for n in range(1 + RECURSIONS)]
                for way, videos in measured}  # fmt: skip

    panels = {
        "direction is right, of videos": by_part(
            lambda parts: Rate("direction", sum(part.direction for part in parts), len(parts)).estimate
        ),
        "drift of the mean colour, of 255": by_part(lambda parts: student_mean([part.drift for part in parts])),
    }
    write_lines(path, panels, "part", range(1 + RECURSIONS))
