"""The campaign: every kind of attack against one server, counted, with the good workflow looked at in between.

Contract: everything follows from a seed. The server must run this pack and `tests/values_node.py`. Each method adds to
`counts` and `leftovers`; `table` is what is published.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from comfyui_lavie.comfyui_api.client import NotServed, ServerError
from comfyui_lavie.comfyui_api.clips import fetch_frames, frames_only
from comfyui_lavie.comfyui_api.graphs import load_workflow
from comfyui_lavie.comfyui_api.server import ComfyUIServer
from comfyui_lavie.files import PART
from comfyui_lavie.place import workflow_file
from comfyui_lavie.tables import markdown_table
from tqdm import tqdm

from .files import CANARY, SHIPPED, make_file
from .hang import judge_hang, server_process
from .outcome import HANG_S, KINDS, Hang, Outcome, run_prompt
from .prompts import make_prompt, shrink

GOOD = "lavie_nano_text_to_video.json"
WORKFLOWS = (GOOD, "lavie_nano_cascade.json", "lavie_nano_long_video.json")
LOADERS = {
    "diffusion_models": ("LaVieInterpolationModelLoader", "model_name", {"weight_dtype": "default"}),
    "vae": ("LaVieVAELoader", "vae_name", {}),
    "text_encoders": ("LaVieTextEncoderLoader", "text_encoder_name", {}),
}
LOOK_EVERY = 25  # attacks between two looks at the good workflow
MB = 2**20


class Campaign:
    """Attacks on a running server; all numbers are in `counts` (attack -> outcome -> how often)."""

    def __init__(self, server: ComfyUIServer, seed: int):
        self.server, self.random = server, random.Random(seed)
        self.counts: dict[str, Counter] = defaultdict(Counter)
        self.raw: Counter = Counter()  # the texts of raw errors
        self.memory: list[int] = []
        info = server.object_info()
        self.workflows = [shrink(load_workflow(workflow_file(name), info)) for name in WORKFLOWS]
        self.good = frames_only(self.workflows[0])
        self.expected = self._frames()

    def prompts(self, count: int) -> None:
        """Prompts with inputs replaced, linked astray or gone."""
        self._attack("prompts", count, lambda: run_prompt(self.server, make_prompt(self.workflows, self.random)))

    def files(self, count: int) -> None:
        """Harmful files in each loader, LoRA Report and Convert."""
        models = self.server.base_directory / "models"

        def load() -> Outcome:
            folder = self.random.choice(sorted(SHIPPED))
            return run_prompt(self.server, _loading(folder, make_file(folder, models, self.random), self.random))

        self._attack("files", count, load)
        self.counts["files"]["payloads that ran"] += (models / CANARY).exists()

    def interrupts(self, count: int) -> None:
        """Interrupts at a random time of a run; a video under its final name must be whole."""

        def interrupt() -> Outcome:
            delay = self.random.uniform(0, 1.5)
            before = self._videos()
            outcome = run_prompt(self.server, self._longer(), lambda: (time.sleep(delay), self.server.interrupt()))
            if outcome.kind == "interrupted":
                self.counts["interrupts"]["leftovers"] += len(self._videos() - before)
            return outcome

        self._attack("interrupts", count, interrupt)

    def kills(self, count: int) -> None:
        """The server killed at a random time of a run, and started again."""

        def kill() -> Outcome:
            before = self._videos()
            self.server.post("/prompt", {"prompt": self._longer()})
            time.sleep(self.random.uniform(0.2, 3))
            self.server.kill()
            half = [path for path in self._videos() - before if path.stat().st_size < 1000]
            self.server.start()
            self.counts["kills"]["leftovers"] += len(half)
            return Outcome("interrupted")

        self._attack("kills", count, kill)

    def runs(self, count: int) -> None:
        """The good workflow again and again; `memory` gets the server's resident bytes."""
        for _ in range(count):
            self._look("runs")
            self.memory.append(resident_bytes(self.server))

    def leftovers(self) -> list[Path]:
        """Parts of files that nothing is writing any more."""
        return list(self.server.base_directory.rglob(f".*{PART}"))

    def is_clean(self) -> bool:
        """Whether nothing is raw or hangs by our fault, no payload ran, nothing changed and nothing is left."""
        bad = ("raw: ours", "hang: ours", "payloads that ran", "leftovers", "good workflow changed")
        return not self.leftovers() and not any(counts[name] for counts in self.counts.values() for name in bad)

    def table(self) -> str:
        """Attacks and their outcomes in Markdown, then raw errors by text, then memory."""
        extra = ("payloads that ran", "leftovers", "good workflow looked at", "good workflow changed")
        columns = [name for name in (*KINDS, *extra) if any(name in counts for counts in self.counts.values())]
        rows = [[attack, *(counts[name] for name in columns)] for attack, counts in self.counts.items()]
        lines = [markdown_table(["attack", *columns], rows)]
        lines += [f"- {times} x {text}" for text, times in self.raw.most_common()]
        if self.memory:
            lines.append(f"Memory of the server: {self.memory[0] / MB:.0f} -> {self.memory[-1] / MB:.0f} MiB")
        lines.append(f"Parts of files left at the end: {len(self.leftovers())}")
        return "\n".join(lines)

    def _attack(self, name: str, count: int, attack) -> None:
        for number in tqdm(range(1, count + 1), desc=name, mininterval=30, file=sys.stderr):
            self._unless_hung(name, lambda: self._count(name, attack()))
            if number % LOOK_EVERY == 0 or number == count:
                self._look(name)

    def _count(self, name: str, outcome: Outcome) -> None:
        self.counts[name][outcome.kind] += 1
        if outcome.kind.startswith(("raw", "hang")):
            self.raw[f"{outcome.kind}: {outcome.text[:200]}"] += 1

    def _unless_hung(self, name: str, work: Callable[[], None]) -> None:
        """Do it; a hang is counted by whose it is, and the server started again."""
        try:
            work()
        except Hang:
            self._count(name, judge_hang(self.server))
            self.server.kill()
            self.server.start()

    def _look(self, name: str) -> None:
        """Run the good workflow, everything made anew, and compare its frames bit for bit."""

        def look() -> None:
            self.counts[name]["good workflow changed"] += not np.array_equal(self._frames(), self.expected)
            self.counts[name]["good workflow looked at"] += 1

        self._unless_hung(name, look)

    def _frames(self) -> np.ndarray:
        """Made anew: a run that came before the server freed its memory names pictures that are gone, and is repeated.

        Raises Hang.
        """
        while True:
            self.server.post("/free", {"free_memory": True})
            self.server.clear_previews()
            try:
                outputs = self.server.run(self.good, limit_s=HANG_S)
            except ServerError as error:
                raise Hang from error
            with contextlib.suppress(NotServed):
                return fetch_frames(self.server, outputs)

    def _longer(self) -> dict:
        """A run of a second or two that ends with a video decoded while it is written."""
        clip = {"shape": [200, 4, 8, 8], "fill": self.random.random()}
        return {
            "1": {"class_type": "TestValue", "inputs": {"value": json.dumps({"latent": clip})}},
            "2": {"class_type": "LaVieVAELoader", "inputs": {"vae_name": "lavie_nano_vae.safetensors"}},
            "3": {"class_type": "LaVieDecodeToVideo",
                  "inputs": {"samples": ["1", 0], "vae": ["2", 0], "fps": 8.0, "frames_at_once": 1}},
            "4": {"class_type": "SaveVideo",
                  "inputs": {"video": ["3", 0], "filename_prefix": "fuzz", "format": "auto", "codec": "auto"}},
        }  # fmt: skip

    def _videos(self) -> set[Path]:
        return set((self.server.base_directory / "output").rglob("fuzz*.mp4"))


def _loading(folder: str, name: str, random_: random.Random) -> dict:
    """A workflow that reads a file of a model folder."""
    if folder == "loras":
        api = {"1": {"class_type": "LaVieBaseModelLoader",
                     "inputs": {"model_name": "lavie_nano_base.safetensors", "weight_dtype": "default"}},
               "2": {"class_type": "LaVieLoraReport", "inputs": {"model": ["1", 0], "lora_name": name}}}  # fmt: skip
        return api
    if folder == "diffusion_models" and random_.random() < 0.3:
        inputs = {"model_name": name, "dtype": "fp16", "file_name": "fuzz_converted", "overwrite": True}
        return {"1": {"class_type": "LaVieConvertCheckpoint", "inputs": inputs}}
    loader, input_, more = LOADERS[folder]
    return {"1": {"class_type": loader, "inputs": {input_: name, **more}},
            "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}  # fmt: skip


def resident_bytes(server: ComfyUIServer) -> int:
    """Of the server's own process."""
    lines = Path("/proc", str(server_process(server)), "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
