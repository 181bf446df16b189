"""What a report says of one run or two, as headings, words and tables; writers make Markdown or HTML of it.

Contract: pure functions of measurements. A figure always stands with its interval; what was not measured says why.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..tables import markdown_table
from .manifest import ClipRecord
from .measurements import Measured, Measurements
from .statistics import Estimate, Paired, Rate, mean, paired_difference, percentile_interval
from .vbench import DIMENSIONS, summary

Runs = dict[str, Measurements]  # by the names that the report calls them; the first is what others are compared with
PUBLISHED = Path(__file__).parent / "published.json"


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and a table (head, rows) if there is one. align: as `markdown_table` takes it."""

    title: str
    words: str = ""
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    align: str = "l"


def sections(runs: Runs) -> list[Section]:
    """All of a report but the clips."""
    found = [values(runs)]
    if len(runs) == 2:
        found.append(comparison(*runs.values(), *runs))
    found += [notes(runs), vbench(runs), not_measured(runs), published(), generation(runs), protocols(runs)]
    found.append(left_out(runs))
    return [section for section in found if section.rows or section.words]


def values_table(runs: Runs) -> str:
    """The figures in Markdown, for the terminal."""
    section = values(runs)
    return markdown_table(section.head, section.rows, section.align)


def estimate_of(metric: Measured) -> Estimate:
    """A metric's figure of a whole run: of the set, a rate with Wilson's interval, or the mean over clips."""
    if metric.of_set:
        return metric.of_set.value
    known = [value for value in metric.values if value is not None]
    if metric.rate:
        return Rate(metric.name, round(sum(known)), len(known)).estimate
    return mean(known)


def values(runs: Runs) -> Section:
    """Every metric that some run has."""
    rows = [
        (metric.title, *(_figure(run, name) for run in runs.values()), metric.better or "-")
        for name, metric in _metrics(runs).items() if not metric.reason
    ]  # fmt: skip
    words = (
        "Behind each figure is its 95 % interval: Wilson's of rates, a bootstrap's over clips of means, of sets the "
        "spread of redrawn clips."
    )
    return Section("Figures", words, ("metric", *runs, "better"), tuple(rows), "l" + "r" * len(runs) + "l")


def comparison(one: Measurements, other: Measurements, name: str, other_name: str) -> Section:
    """The second run less the first, over clips of the same prompt and seed."""
    shared = pairs({name: one, other_name: other})
    if not shared:
        return Section("Comparison", "No paired test: the runs have no clips of the same prompt and seed.")
    rows = []
    for metric in one.metrics:
        twin = next((m for m in other.metrics if m.name == metric.name), None)
        if twin is None or metric.reason or twin.reason:
            continue
        if metric.protocol_id != twin.protocol_id:
            rows.append((metric.title, "not the same protocol", "-", "-"))
        elif metric.of_set:
            rows.append((metric.title, *_difference_of_sets(metric, twin, shared, one, other)))
        else:
            first = [_number(metric.values[a]) for a, _ in shared]
            second = [_number(twin.values[b]) for _, b in shared]
            rows.append((metric.title, *_paired_cells(paired_difference(second, first), metric.digits)))
    words = (
        f"{other_name} less {name}, over {len(shared)} clips of the same prompt and seed: mean difference with "
        "Student's interval, and p of a two-sided sign-flip permutation test (of rates: McNemar's exact test). Of "
        "twenty metrics without any difference one has p < 0.05 by chance."
    )
    return Section("Comparison", words, ("metric", "difference", "p", "clips"), tuple(rows))


def not_measured(runs: Runs) -> Section:
    """What is missing, and where to get it."""
    rows = [(run_name, m.title, m.reason) for run_name, run in runs.items() for m in run.metrics if m.reason]
    return _of_runs(runs, "Not measured", "", ("metric", "why"), rows, "ll")


def notes(runs: Runs) -> Section:
    """What belongs to numbers of sets: their bias and their floor."""
    rows = [
        (run_name, metric.title, words, f"{value:.{metric.digits}f}")
        for run_name, run in runs.items() for metric in run.metrics if metric.of_set
        for words, value in metric.of_set.notes.items()
    ]  # fmt: skip
    words = "How far few clips mislead: the same number of half the clips, and what it would be of endless ones."
    return _of_runs(runs, "Bias of sets", words, ("metric", "", "value"), rows, "llr") if rows else Section("")


def vbench(runs: Runs) -> Section:
    """Scores that VBench itself made."""
    scored = {name: run.imported for name, run in runs.items() if run.imported}
    if not scored:
        return Section("")
    names = [*DIMENSIONS, "quality", "semantic", "total"]
    found = {run: {**scores, **summary(scores)} for run, scores in scored.items()}
    rows = [(n.replace("_", " "), *(_percent(scores.get(n)) for scores in found.values())) for n in names]
    words = "Made by VBench itself from exported clips. Quality, semantic and total are its formulas, never of a part."
    return Section("VBench", words, ("dimension", *scored), tuple(rows))


def published() -> Section:
    """Figures that others published, marked as theirs."""
    rows = [
        (entry["figure"], str(entry["value"]), entry["who"], entry["protocol"], entry["source"])
        for entry in json.loads(PUBLISHED.read_text(encoding="utf-8"))
    ]  # fmt: skip
    words = "Not measured here. Where the protocol says 'not published', no figure of ours can be held against it."
    head = ("figure", "theirs", "who", "protocol", "source")
    return Section("Published by others", words, head, tuple(rows), "lrlll")


def generation(runs: Runs) -> Section:
    """How the clips were made, as far as their manifest says."""
    rows = []
    for name, run in runs.items():
        for what, value in _made_by(run).items():
            rows.append((name, what, value))
    return _of_runs(runs, "How the clips were made", "", ("fact", "value"), rows, "ll")


def protocols(runs: Runs) -> Section:
    """Each metric in words, with its id and the digests of its weights."""
    rows = []
    for name, run in runs.items():
        for metric in run.metrics:
            if not metric.reason:
                weights = ", ".join(f"{file} SHA-256 {digest}" for file, digest in metric.weights.items()) or "-"
                rows.append((name, metric.title, metric.protocol_id, metric.protocol, weights))
        settings = ", ".join(f"{key}: {value}" for key, value in run.settings.items())
        versions = ", ".join(f"{key} {value}" for key, value in run.versions.items())
        rows.append((name, "settings", "", f"{settings}. Measured {run.made} with {versions}.", "-"))
    words = "Figures of equal ids were made alike: same words, same weights, same references and real clips."
    return _of_runs(runs, "Protocols", words, ("metric", "id", "protocol", "weights"), rows, "llll")


def left_out(runs: Runs) -> Section:
    """Clips that could not be measured."""
    rows = [(name, file, why) for name, run in runs.items() for file, why in run.left_out.items()]
    return _of_runs(runs, "Clips left out", "", ("file", "why"), rows, "ll")


def _of_runs(runs: Runs, title: str, words: str, head: tuple[str, ...], rows: list[tuple], align: str) -> Section:
    """A section of rows that begin with the name of their run: what is the same of both runs is said once, and of a
    single run its name is not said."""
    saying: dict[tuple[str, ...], list[str]] = {}
    for name, *rest in rows:
        saying.setdefault(tuple(rest), []).append(name)
    if len(runs) == 1:
        return Section(title, words, head, tuple(saying), align)
    named = tuple((names[0] if len(names) == 1 else "both", *rest) for rest, names in saying.items())
    return Section(title, words, ("run", *head), named, f"l{align}")


def _figure(run: Measurements, name: str) -> str:
    metric = next((m for m in run.metrics if m.name == name), None)
    if metric is None or metric.reason:
        return "not measured"
    return estimate_of(metric).text(metric.digits)


def _metrics(runs: Runs) -> dict[str, Measured]:
    """Each metric once: those that were measured somewhere first."""
    every = [metric for run in runs.values() for metric in run.metrics]
    return {metric.name: metric for metric in sorted(every, key=lambda m: bool(m.reason))}


def pairs(runs: Runs) -> list[tuple[int, ...]]:
    """Places of clips that belong together, one of each run: of one prompt, seed and number, or, where these are not
    known, of one file name."""

    def key(clip: ClipRecord) -> tuple:
        return (Path(clip.file).stem,) if clip.prompt is None else (clip.prompt, clip.seed, clip.index)

    places = [{key(clip): place for place, clip in enumerate(run.clips)} for run in runs.values()]
    return [tuple(of_run[k] for of_run in places) for k in places[0] if all(k in of_run for of_run in places)]


def clip_values(runs: Runs, places: tuple[int, ...]) -> list[tuple[str, ...]]:
    """(title, number in each run) of every metric of the clips at `places`, one of each run; "-" for none."""

    def number(run: Measurements, name: str, place: int) -> str:
        metric = next((m for m in run.metrics if m.name == name and m.values), None)
        value = metric.values[place] if metric else None
        return "-" if value is None else f"{value:.{metric.digits}f}"

    found = [
        (metric.title, *(number(run, name, place) for run, place in zip(runs.values(), places, strict=True)))
        for name, metric in _metrics(runs).items()
    ]  # fmt: skip
    return [row for row in found if set(row[1:]) != {"-"}]


def _paired_cells(found: Paired, digits: int) -> tuple[str, str, str]:
    p = "-" if np.isnan(found.p) else f"{found.p:.3f}" if found.p >= 0.001 else "< 0.001"
    return found.difference.text(digits, signed=True), p, str(found.count)


def _difference_of_sets(one: Measured, other: Measured, shared: list, run: Measurements, twin: Measurements) -> tuple:
    """Of a number of the whole set: bootstraps of the same clips in the same order give its interval."""
    apart = other.of_set.value.value - one.of_set.value.value
    same = len(shared) == len(run.clips) == len(twin.clips) and all(a == b for a, b in shared)
    if not same or len(one.of_set.draws) != len(other.of_set.draws):
        return f"{apart:+.{one.digits}f}", "-", "-"
    drawn = np.subtract(other.of_set.draws, one.of_set.draws)
    low, high = percentile_interval(drawn - drawn.mean())
    return Estimate(apart, apart + low, apart + high).text(one.digits, signed=True), "-", str(len(shared))


def _made_by(run: Measurements) -> dict[str, str]:
    """Facts on which all clips of a manifest agree, and how many kinds there are of those on which they do not."""
    found = {"clips": str(len(run.clips))}
    for name in ("set", "workflow", "workflow_digest", "sampling", "weights", "versions"):
        kinds = {json.dumps(getattr(clip, name), sort_keys=True) for clip in run.clips} - {'""', "{}"}
        if kinds:
            value = json.loads(min(kinds))
            told = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            found[name.replace("_", " ")] = told if len(kinds) == 1 else f"{len(kinds)} kinds, one of them {told}"
    sizes = sorted({f"{clip.frames} frames of {clip.width} x {clip.height}" for clip in run.clips})
    seconds = [clip.seconds for clip in run.clips if clip.seconds is not None]
    found["size"] = ", ".join(sizes)
    return {**found, "seconds a clip": mean(seconds).text(1)} if seconds else found


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.2f}"
