"""The command `measure`: a folder of clips, with or without a manifest, by any number of metrics; no ComfyUI needed."""

from __future__ import annotations

import argparse
import logging
import math
import platform
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .clips import read_clip
from .manifest import MANIFEST, ClipRecord, content_digest
from .measurements import Log, Measured, Measurements, protocol_id
from .metrics import METRICS
from .metrics.base import Clip, Setup
from .preparation import Choice, choose, pairs_of, protocol_of, usable
from .sections import values_table
from .vbench import export_clips, import_scores

log = logging.getLogger(__name__)

DESCRIPTION = """\
Measure a folder of clips: video files, folders of PNG, or what its manifest lists.

Weights are never fetched: what is missing is named with its source before any work, and its metrics are left out, or,
asked for by name, refused. A stopped command goes on where it was.
"""
EPILOG = """\
examples:
  measure runs/clips
  measure runs/clips --metrics temporal_flickering,psnr --references runs/truth
  measure runs/ucf101 --metrics fvd,fvd_128,inception_score --weights weights --real UCF-101-clips --count 10100
"""
PACKAGES = ("numpy", "scipy", "torch", "opencv-python-headless", "transformers", "av")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("clips", type=Path, help="folder of the clips")
    names = ", ".join(METRICS)
    parser.add_argument("--metrics", metavar="NAME,...", help=f"default: all that can be measured. There are {names}")
    parser.add_argument("--weights", type=Path, help="folder of networks that some metrics need (docs/evaluation.md)")
    parser.add_argument("--references", type=Path, help="folder of the true clips, by the same file names, whatever "
                        "their format")  # fmt: skip
    parser.add_argument("--real", type=Path, help="folder of real clips, which sets are compared with (FVD)")
    parser.add_argument("--count", type=int, help="how many clips there must be")
    parser.add_argument("--frames", type=int, default=16, help="what networks for videos see of each (default: 16)")
    parser.add_argument("--borders", type=_numbers, default=(), metavar="N,N,...", help="frames with which the parts "
                        "of long videos begin, for seams and drift")  # fmt: skip
    parser.add_argument("--lenient", action="store_true", help="leave damaged clips out, which are then listed, and "
                        "take clips of different sizes and lengths")  # fmt: skip
    parser.add_argument("--vbench-results", type=Path, nargs="+", default=[], help="result files of VBench to report")
    parser.add_argument("--vbench-export", type=Path, help="also lay the clips out in this folder as VBench wants them")
    parser.add_argument("--device", default="cpu", help="of the networks, such as cuda:0 (default: cpu)")
    parser.add_argument("--out", type=Path, help="folder of the measurements (default: that of the clips)")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status. Raises EvaluationError before any work if something is missing."""
    out = args.out or args.clips
    imported = import_scores(args.vbench_results)
    setup = Setup(args.weights, args.device, args.frames, args.borders)
    given = {"prompt": (args.clips / MANIFEST).exists(), "reference": args.references, "real": args.real}
    choice = choose(args.metrics and args.metrics.split(","), setup, [kind for kind, there in given.items() if there])
    records, left_out = usable(args.clips, args.count, args.lenient)
    for metric, reason in choice.missing.items():
        log.info("%s: not measured (%s)", metric, reason)
    references = pairs_of(records, args.references) if args.references else {}
    real, dropped = usable(args.real, None, lenient=True, least=args.frames) if args.real else ([], {})
    if args.vbench_export:
        export_clips(args.clips, records, args.vbench_export)
    out.mkdir(parents=True, exist_ok=True)
    with Log(out) as known:
        metrics = measure(args.clips, records, choice, setup, known, references, args.real, real)
    settings = {
        "clips": len(records), "manifest": (args.clips / MANIFEST).exists(), "frames": args.frames,
        "borders": list(args.borders), "references": len(references), "real clips": len(real),
        "real clips left out": len(dropped),
    }  # fmt: skip
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    found = Measurements(tuple(records), tuple(metrics), settings, _versions(), left_out, made, imported)
    found.save(out)
    print(values_table({out.name: found}))
    return 0


def measure(
    folder: Path, records: list[ClipRecord], choice: Choice, setup: Setup, known: Log,
    references: dict[str, Path], real_folder: Path | None = None, real: Sequence[ClipRecord] = (),
) -> list[Measured]:  # fmt: skip
    """Every metric of a choice, of clips that are usable; those that are missing at the end.

    Args:
        known: what was measured before, which is not measured again.
        references: {file of a clip: path of the true one}.
    """
    compared = {
        "reference": sorted(map(content_digest, references.values())),
        "real": sorted(record.id for record in real),
    }  # fmt: skip
    ids = {}
    for name in choice.names:
        others = [others for kind, others in compared.items() if getattr(METRICS[name], kind)]
        ids[name] = protocol_id(name, protocol_of(name, setup), choice.weights[name], others)
    started: dict[str, Callable[[Clip], float | np.ndarray]] = {}
    _measure_clips(folder, records, ids, setup, known, started, references)
    of_real = {name: key for name, key in ids.items() if METRICS[name].real}
    if of_real:
        _measure_clips(real_folder, real, of_real, setup, known, started, {}, real=True)
    found = [_judge(choice.about(name, setup, ids[name]), records, real, known) for name in choice.names]
    return found + [choice.not_measured(name, setup) for name in choice.missing]


def _measure_clips(
    folder: Path, records: Sequence[ClipRecord], ids: dict[str, str], setup: Setup, known: Log, started: dict,
    references: dict[str, Path], real: bool = False,
) -> None:  # fmt: skip
    """Measure what is not known of each clip; a metric is started when the first clip waits for it."""
    for record in tqdm(records, desc="real clips" if real else "clips", unit="clip"):
        waiting = [name for name, key in ids.items() if known.get(_key(record, real), key) is None]
        if not waiting:
            continue
        frames = read_clip(folder / record.file)
        reference = read_clip(references[record.file]) if record.file in references else None
        clip = Clip(frames, record, reference, real)
        for name in waiting:
            if name not in started:
                started[name] = METRICS[name].start(setup)
            known.add(_key(record, real), name, ids[name], started[name](clip))


def _key(record: ClipRecord, real: bool = False) -> str:
    """What numbers are kept under. Clips and real clips may be the same file, of which other frames are taken."""
    return f"{'real ' if real else ''}{record.file} {record.id}"


def _judge(about: dict, records: list[ClipRecord], real: Sequence[ClipRecord], known: Log) -> Measured:
    """The numbers of one metric together."""
    metric, key = METRICS[about["name"]], about["protocol_id"]
    values = [known.get(_key(record), key) for record in records]
    if metric.judge is None:
        return Measured(**about, values=tuple(None if math.isnan(value) else float(value) for value in values))
    against = np.stack([known.get(_key(record, True), key) for record in real]) if metric.real else None
    return Measured(**about, of_set=metric.judge(np.stack(values), against))


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if any(number < 1 for number in numbers) or list(numbers) != sorted(set(numbers)):
        raise argparse.ArgumentTypeError(f"expected ascending frames from 1, got {text}")
    return numbers
