"""The page of `claims`: tables, intervals and costs of what was trained and measured, and nothing besides.

Contract: a pure function of finished, measured runs. Rates have 95 % Wilson intervals over all clips of a variant, all
its seeds together; differences have Newcombe's intervals made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from ..evaluation.statistics import Rate, rate_difference
from ..tables import markdown_table
from .claims_measure import GUIDANCE, VIDEO_WORDS, Cost, Run, SeenClip, cost, measured
from .measure import NONE
from .shapes import HEADED

HEAD = """\
# Two claims of the paper, measured

The LaVie paper claims that (1) simple temporal self-attention with rotary positions suffices to capture how frames
follow each other, and (2) fine-tuning jointly on images and videos is pivotal, lest the image model's knowledge is
lost. Here both are put to the test on networks of {weights:.1f} million weights and generated shapes, with the budgets
at the end of this page. What they do need not be what large ones do; the same command takes larger budgets.

Written by `python -P -m comfyui_lavie.nano claims`. All variants start from one image model: the spatial layers of a
small base (its file's SHA-256 begins with {base}), which images went through alone when it was trained; its temporal
layers begin anew. They learn from clips of {frames} frames of {width} x {height} pixels, and differ in what their row
says and in nothing else. Clips are generated through ComfyUI ({steps} Euler steps, guidance {guidance:g}, seeds 0 to
{last} for every run) and measured by their pixels. Motion that cannot be told counts as wrong; guessing is right in
0.17 of colours and of things and in 0.25 of directions. Intervals are 95 %, over the clips of all seeds together as if
they were independent.
"""
CLAIM1 = """
## Claim 1: temporal self-attention with rotary positions

{clips} clips of all words in {steps} steps, no images ({seeds}). Each model is asked for {asked} clips by captions held
out from training.

- straight: the thing moves along a line at an even pace, whichever way;
- steady: each frame by itself shows the same colour, thing and facing;
- headed things (fish, rocket, car) show the direction in each frame, symmetric ones only in the order of frames.

Only temporal layers learn, so that what is compared is theirs; the image model stays as it is. Without positions the
network treats the frames of a clip as a set. Without temporal attention all that frames share are the statistics of
group normalisation, which LaVie takes over whole clips; there the spatial layers learn instead, twenty times the
weights. The authors' network has rotary positions and a learned bias per distance; each is also tried alone.

![Losses](claims_losses.svg)

"""
CLAIM2 = """
## Claim 2: joint image-video fine-tuning

The images have all words; the videos only {words}.
With a seed, every variant learns from the same {clips} clips in {steps} steps ({seeds}). Joint training sees
{images} images in addition: that is what it costs more. Each model is asked for {unseen} clips of a colour and a thing
that no video had, half of the captions naming a background that none had, and for {seen} of those that the videos had;
the image model before fine-tuning for pictures. Only what it can do then can be lost.

"""
CURVE = """
What is known of words that no video had, over the steps of fine-tuning: {asked} clips of each run at each look, of the
averaged weights, by the trainer's own sampler ({steps} steps); step 0 is the image model, asked for pictures as above.
The loss is that of training, on clips, the mean of the steps since the look before; with its interval over seeds.

![What is forgotten](claims.svg)
"""
COSTS = """
## What it took

Of one training, means over seeds: weights that learn, clips and images seen, CPU time of the process, reading included,
and time on the clock, which other programs lengthen.

"""


@dataclass(frozen=True)
class Question:
    """What is measured: of which clips it is asked, and when a clip is right."""

    name: str
    right: Callable[[SeenClip], bool]
    asked: Callable[[SeenClip], bool]

    def rate(self, clips: list[SeenClip]) -> Rate:
        among = [clip for clip in clips if self.asked(clip)]
        return Rate(self.name, sum(self.right(clip) for clip in among), len(among))


def _axis(clip: SeenClip) -> bool:
    return clip.seen.axis == ("horizontal" if clip.direction in ("left", "right") else "vertical")


def _direction(clip: SeenClip) -> bool:
    return clip.seen.direction == clip.direction


def _any(clip: SeenClip) -> bool:
    return True


def _moves(clip: SeenClip) -> bool:
    """Pictures do not."""
    return len(clip.seen.presence) > 1


def in_videos(clip: SeenClip) -> bool:
    """Whether claim 2's videos had the clip's words."""
    return clip.color in VIDEO_WORDS and clip.thing in VIDEO_WORDS


COLOR, THING = (lambda clip: clip.seen.color == clip.color), (lambda clip: clip.seen.thing == clip.thing)
QUESTIONS = {
    1: (
        Question("straight", lambda clip: clip.seen.axis != NONE, _any),
        Question("steady", lambda clip: clip.steady, _any),
        Question("motion axis", _axis, _any),
        Question("direction, headed things", _direction, lambda clip: clip.thing in HEADED),
        Question("direction, symmetric things", _direction, lambda clip: clip.thing not in HEADED),
        Question("colour", COLOR, _any),
        Question("thing", THING, _any),
    ),
    2: (
        Question("never in videos: colour", COLOR, lambda clip: not in_videos(clip)),
        Question("never in videos: thing", THING, lambda clip: not in_videos(clip)),
        Question(
            "never in videos: background", lambda clip: clip.seen.background in clip.prompt.split(),
            lambda clip: not in_videos(clip) and "background" in clip.prompt,
        ),
        Question("never in videos: motion axis", _axis, lambda clip: _moves(clip) and not in_videos(clip)),
        Question("never in videos: direction", _direction, lambda clip: _moves(clip) and not in_videos(clip)),
        Question("in videos: colour", COLOR, in_videos),
        Question("in videos: thing", THING, in_videos),
        Question("in videos: motion axis", _axis, lambda clip: _moves(clip) and in_videos(clip)),
        Question("in videos: direction", _direction, lambda clip: _moves(clip) and in_videos(clip)),
    ),
}
BEST = {1: "rotary positions and bias", 2: "jointly with images of all words"}


Variants = dict[str, dict[Run, list[SeenClip]]]  # by the variant's name: what each of its runs made


def rates(variants: Variants, questions: tuple[Question, ...]) -> str:
    """A table of rates, all seeds together."""

    def cell(question: Question, runs: dict[Run, list[SeenClip]]) -> str:
        rate = question.rate(sum(runs.values(), []))
        return rate.estimate.text() if rate.count else "-"

    rows = [[q.name, *(cell(q, runs) for runs in variants.values())] for q in questions]
    return markdown_table(["", *variants], rows) + "\n"


def seeds(variants: Variants, questions: tuple[Question, ...]) -> str:
    """A table of rates, each seed by itself."""

    def cell(question: Question, runs: dict[Run, list[SeenClip]]) -> str:
        found = [question.rate(clips) for clips in runs.values()]
        return ", ".join(f"{rate.rate:.2f}" if rate.count else "-" for rate in found)

    rows = [[q.name, *(cell(q, runs) for runs in variants.values())] for q in questions]
    return markdown_table(["each seed", *variants], rows) + "\n"


def differences(variants: Variants, best: str, questions: tuple[Question, ...]) -> str:
    """A table of what ``best`` has over each of the others, and which of it is more than chance."""
    together = {name: sum(runs.values(), []) for name, runs in variants.items()}
    others, rows, beyond = [name for name in together if name != best], [], []
    for question in questions:
        rows.append([question.name])
        for other in others:
            one, two = (question.rate(together[name]) for name in (best, other))
            apart = rate_difference(one, two)
            asked = one.count and two.count
            rows[-1].append(apart.text(signed=True) if asked else "-")
            if asked and (apart.low > 0 or apart.high < 0):
                beyond.append(f"{question.name}, against {other} ({apart.value:+.2f})")
    found = f"Intervals without 0: {'; '.join(beyond)}." if beyond else "Every interval has 0 in it."
    table = markdown_table([f"{best}, less", *others], rows)
    return f"{table}\n\n{found} One in twenty would lack it by chance.\n"


def costs(variants: dict[str, list[Cost]]) -> str:
    """A table of what a training of each variant took, means over its seeds."""
    rows = [
        [name, f"{found[0].weights / 1e6:.2f} M", found[0].clips, found[0].images,
         f"{fmean(one.cpu for one in found):.0f} s", f"{fmean(one.wall for one in found):.0f} s"]
        for name, found in variants.items()
    ]  # fmt: skip
    return markdown_table(["", "weights", "clips", "images", "CPU time", "on the clock"], rows) + "\n"


def page(runs: list[Run], sampling_steps: int) -> str:
    """The whole page, of runs that are trained and measured; the image model comes first."""
    took, bucket = {run: cost(run) for run in runs[1:]}, runs[1].recipe.data.buckets[0]
    head = HEAD.format(
        weights=max(one.weights for one in took.values()) / 1e6, last=max(len(run.scenes) for run in runs) - 1,
        frames=bucket.frames, width=bucket.width, height=bucket.height, steps=sampling_steps, guidance=GUIDANCE,
        base=runs[0].weights.stem.rpartition("_")[2],
    )  # fmt: skip
    by_name: dict[str, list[Cost]] = {}
    for run in runs[1:]:
        by_name.setdefault(run.variant, []).append(took[run])
    sections = (_section(number, runs, took, sampling_steps) for number in (1, 2))
    return "".join((head, *sections, COSTS, costs(by_name)))


def _section(number: int, runs: list[Run], took: dict[Run, Cost], sampling_steps: int) -> str:
    """What is told of a claim."""
    variants: Variants = {}
    for run in runs:
        if run.claim == number:
            variants.setdefault(run.variant, {})[run] = measured(run, sampling_steps)
    best = variants[BEST[number]]
    example, clips = next(iter(best.items()))
    unseen, numbers = sum(not in_videos(clip) for clip in clips), [run.recipe.run.seed for run in best]
    text = {1: CLAIM1, 2: CLAIM2}[number].format(
        clips=took[example].clips, steps=example.recipe.run.steps, images=took[example].images, asked=len(clips),
        words=", ".join(VIDEO_WORDS), seeds=f"seed{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}",
        unseen=unseen, seen=len(clips) - unseen,
    )  # fmt: skip
    questions = QUESTIONS[number]
    text += rates(variants, questions) + "\n" + differences(variants, BEST[number], questions)
    if watched := example.recipe.samples.prompts:
        text += CURVE.format(asked=len(watched), steps=example.recipe.samples.steps)
    return text + ("\n" + seeds(variants, questions) if len(numbers) > 1 else "")

