"""The command `generate`: clips of a prompt set by a workflow, and the manifest that tells what each one is.

Contract: a clip is made once: its content id (prompt, seed, graph, weights) stands in the manifest. A stopped run goes
on with the same command; files without an entry and entries without a file are made anew.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

from tqdm import tqdm

from ..comfyui_api.client import Client
from ..comfyui_api.clips import MadeClip, make_clip
from ..comfyui_api.graphs import parse_setting
from ..comfyui_api.pool import Pool, Worker
from ..comfyui_api.ray_pool import ray_workers
from ..comfyui_api.workers import given, started
from ..datasets.locks import locked_folder
from ..datasets.prepare import positive
from . import manifest
from .errors import EvaluationError
from .folder import check_names, keep, records_in
from .jobs import FORMATS, Job, Namer, check_vbench_names, content_id, jobs_of, name_by_content, name_for_vbench
from .manifest import ClipRecord
from .plan import plan, seconds_per_clip
from .prompts import PromptSet, load_prompts
from .workflow import Workflow, open_workflow

HOPELESS = 3  # failures before the first success
NAMED = 10  # how many failures are named

DESCRIPTION = """\
Generate clips: every prompt of a set, with several seeds, by any ComfyUI workflow that ends in a video. The prompt goes
to the text that reaches `positive`, the seed to every seed. Frames are kept without loss; manifest.jsonl in the folder
tells of each clip the prompt, seed, graph, weights, versions and seconds. Stopped, the same command goes on.

Prompts (--prompts): vbench, ucf101 (class names), msrvtt:FILE (the dataset's own JSON), or a file: .txt, one a line;
.json, .jsonl or .csv with "prompt" and perhaps "tags". Sample i of prompt n has the seed --seed + 1000 n + i.
"""
EPILOG = """\
examples:
  generate --workflow nano/workflows/lavie_nano_cascade.json --prompts my.txt --out runs/mine
  generate --workflow mine.json --prompts vbench --samples 5 --samples-of temporal_flickering=25 --names vbench --out v
  generate --workflow mine.json --prompts ucf101 --samples 100 --servers http://a:8188 http://b:8188 --out u
  generate --prompts vbench --samples 5 --plan --seconds 18 --out v
"""


def generate(
    pool: Pool, workflow: Workflow, set_name: str, jobs: Sequence[Job], folder: Path, name: Namer,
    limit_s: float | None = None, progress: bool = True,
) -> list[ClipRecord]:  # fmt: skip
    """Make those of `jobs` that are not in the folder yet; returns the records of all of them, in their order.

    Args:
        name: the ending of its names decides the format.
        limit_s: seconds after which a clip's server counts as failed.

    Raises:
        EvaluationError: the folder holds other clips, or some clips could not be made, which are named.
        ServerError: no server is left.
        DataError: another process generates into the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder, "generate"):
        wanted = {content_id(job, workflow.digest, workflow.weights): job for job in jobs}
        files = {content: name(job, content) for content, job in wanted.items()}
        done = records_in(folder, workflow, Path(next(iter(files.values()))).suffix)
        check_names(folder, done, files)
        waiting = [content for content in wanted if content not in done]
        things = [(content, wanted[content].prompt.text, wanted[content].seed) for content in waiting]
        failures: dict[str, Exception] = {}
        with tqdm(
            total=len(wanted), initial=len(wanted) - len(waiting), desc="generate", unit="clip", disable=not progress
        ) as bar:
            for (content, *_), made in pool.map(partial(make_one, api=workflow.api, limit_s=limit_s), things):
                if isinstance(made, Exception):
                    failures[content] = made
                else:
                    done[content] = keep(made, folder / files[content], content, wanted[content], workflow, set_name)
                    bar.update()
                if len(failures) == HOPELESS and not any(content in done for content in waiting):
                    break
    if failures:
        raise EvaluationError(_failed(failures, wanted, sum(content not in done for content in wanted)))
    return [done[content] for content in wanted]


def make_one(client: Client, thing: tuple[str, str, int], api: dict, limit_s: float | None) -> MadeClip:
    """The clip of (content id, prompt, seed); runs where the server is."""
    return make_clip(client, api, *thing[1:], limit_s)


def _failed(failures: dict[str, Exception], wanted: dict[str, Job], left: int) -> str:
    lines = [f"{left} of {len(wanted)} clips are not made. What failed:"]
    for content, error in list(failures.items())[:NAMED]:
        lines.append(f"  {wanted[content].prompt.text!r}, seed {wanted[content].seed}: {error}")
    if len(failures) > NAMED:
        lines.append(f"  and {len(failures) - NAMED} more")
    return "\n".join([*lines, "The same command goes on with those that are left."])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    what = parser.add_argument_group("what")
    what.add_argument("--workflow", type=Path, help="workflow file, as the browser saves it or in API format")
    what.add_argument("--set", action="append", default=[], type=parse_setting, metavar="INPUT=VALUE",
                      help="change an input of the workflow, such as steps=50")  # fmt: skip
    what.add_argument("--prompts", required=True, help="prompt set or file, see above")
    what.add_argument("--tags", nargs="+", default=[], help="only prompts with one of these tags")
    what.add_argument("--limit", type=positive, help="only so many prompts, the first ones")
    what.add_argument("--samples", type=positive, default=1, help="clips of each prompt (default: %(default)s)")
    what.add_argument("--samples-of", nargs="+", default=[], type=_count_of, metavar="TAG=N",
                      help="clips of prompts with this tag")  # fmt: skip
    what.add_argument("--seed", type=int, default=0, help="of the first clip (default: %(default)s)")
    where = parser.add_argument_group("servers (default: one started here for each GPU, or one)")
    where = where.add_mutually_exclusive_group()
    where.add_argument("--servers", nargs="+", metavar="URL", help="ComfyUI servers that are running")
    where.add_argument("--start", type=positive, metavar="N", help="start so many here, the GPUs in turn")
    where.add_argument("--ray", type=positive, nargs="?", const=0, metavar="N",
                       help="Ray actors with a server each: N, or one for each GPU of the cluster")  # fmt: skip
    parser.add_argument("--home", type=Path, metavar="FOLDER", help="base directory whose models, inputs and custom "
                        "nodes servers that are started use (default: ComfyUI's folder)")  # fmt: skip
    parser.add_argument("--limit-s", type=float, metavar="SECONDS", help="a server that takes longer for a clip failed")
    parser.add_argument("--out", type=Path, required=True, help="folder of the clips and their manifest")
    parser.add_argument("--format", choices=FORMATS, help="mkv (FFV1, without loss), png (a folder each, without loss) "
                        "or mp4 (H.264); default: mkv, with --names vbench mp4")  # fmt: skip
    parser.add_argument("--names", choices=("content", "vbench"), default="content",
                        help="vbench: PROMPT-INDEX.mp4, so that VBench can be run on the folder")  # fmt: skip
    parser.add_argument("--plan", action="store_true", help="tell how long it will take, and make nothing")
    parser.add_argument("--seconds", type=float, help="for --plan: seconds per clip, if none are in --out yet")


def run(args: argparse.Namespace) -> int:
    """Plan or generate; returns the exit status."""
    prompts = chosen_prompts(args)
    jobs = jobs_of(prompts, args.samples, args.seed, dict(args.samples_of))
    if args.plan:
        records = manifest.read(args.out) if (args.out / manifest.MANIFEST).exists() else []
        there = Counter((record.prompt, record.seed) for record in records)
        done = sum((job.prompt.text, job.seed) in there for job in jobs)
        seconds, source = seconds_per_clip(records, args.seconds)
        print(plan(len({job.prompt.text for job in jobs}), len(jobs), done, seconds, source))
        return 0
    if args.workflow is None:
        raise EvaluationError("--workflow is missing: which workflow is to make the clips?")
    name = namer(args, jobs)
    with Pool(workers(args)) as pool:
        workflow = open_workflow(pool, args.workflow, dict(args.set))
        records = generate(pool, workflow, prompts.name, jobs, args.out, name, args.limit_s)
    seconds = median(record.seconds for record in records)
    print(f"{len(records)} clips, {seconds:.2f} s each (median); they are told of in {args.out / manifest.MANIFEST}")
    return 0


def chosen_prompts(args: argparse.Namespace) -> PromptSet:
    """The prompts that the command line asks for, each once. Raises EvaluationError."""
    prompts = load_prompts(args.prompts).distinct()
    if args.tags:
        prompts = prompts.having(args.tags)
    return PromptSet(prompts.name, prompts.prompts[: args.limit])


def namer(args: argparse.Namespace, jobs: Sequence[Job]) -> Namer:
    """How files are named. Raises EvaluationError if the folder cannot hold such names."""
    if args.names == "content":
        return name_by_content(args.format or "mkv")
    if args.format not in (None, "mp4"):
        raise EvaluationError(f"VBench reads .mp4: expected --format mp4 with --names vbench, got {args.format}")
    args.out.mkdir(parents=True, exist_ok=True)
    check_vbench_names(jobs, args.out)
    return name_for_vbench


def workers(args: argparse.Namespace) -> Sequence[Worker]:
    """The servers that the command line asks for, not started yet."""
    if args.servers:
        return given(args.servers)
    return started(args.start, args.home) if args.ray is None else ray_workers(args.ray, args.home)


def _count_of(text: str) -> tuple[str, int]:
    tag, _, count = text.partition("=")
    if not count.isdecimal():
        raise argparse.ArgumentTypeError(f"expected TAG=N, such as temporal_flickering=25, got {text}")
    return tag, int(count)
