"""Time, FLOPs and memory of one network, measured in a process of its own.

Memory is what one forward needs beyond weights and inputs, in two ways:

* *Activations*: the peak of the bytes torch's own allocator has handed out. On the CPU it is the largest running sum of
  the allocations and releases that torch's profiler records during the forward; on CUDA
  ``max_memory_allocated``. Convolution scratch counts (oneDNN takes it from the same allocator). It depends neither
  on load nor on malloc, repeats exactly, and is the figure that the goal is about. On the meta device, where tensors
  have sizes and no content, it is the sum of what operations return: published sizes in seconds, without scratch.
* *Process growth*, on Linux with a CPU: the largest resident size during the forward less that before it. The
  kernel's high-water mark is reset just before, free heap is handed back first, and malloc is told to map every block
  from 64 KiB up by itself, so that blocks freed during the forward leave the process and do not hide later growth. It
  also sees what bypasses the allocator; pages that are reserved but never touched it does not see.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import statistics
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ..lavie_models.dtypes import DTYPES
from .subjects import SUBJECTS, Case

M_MMAP_THRESHOLD = -3  # mallopt's name for the size from which a block is mapped by itself
MAP_FROM_BYTES = 64 * 1024
RATE_REPEATS = 5


def attention_flops(query, key, value, *_args, out_shape=None, **_kwargs) -> int:
    """FLOPs of the CPU's fused attention, counted as torch's counter counts the CUDA kernels."""
    return sdpa_flop_count(query, key, value)


# What torch's counter passes over on the CPU
FLOP_FORMULAS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}


def count_flops(forward) -> int:
    """FLOPs of one call: convolutions, matrix products and attention, two per multiply-add."""
    with FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS) as counter:
        forward()
    return counter.get_total_flops()


def seconds(forward, device: str) -> tuple[float, float]:
    """Seconds of one call, to its last kernel: on the clock, and of this process on the CPU, all its threads added."""
    if device == "cuda":
        torch.cuda.synchronize()
    clock, cpu = time.perf_counter(), time.process_time()
    forward()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - clock, time.process_time() - cpu


@torch.no_grad()
def matrix_rate(device: str, dtype: str, size: int) -> float:
    """FLOP/s of a product of two square matrices of that size, the median of a few, on the clock."""
    a, b = (torch.randn(size, size, device=device).to(DTYPES[dtype]) for _ in range(2))
    times = [seconds(lambda: a @ b, device)[0] for _ in range(RATE_REPEATS + 1)][1:]
    return 2 * size**3 / statistics.median(times)


def peak_activations(forward, device: str) -> int:
    """Largest number of bytes that one call holds at once in torch's allocator, weights and inputs left out."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward()
        return torch.cuda.max_memory_allocated() - before
    if device == "meta":
        with PeakMemory() as memory:
            forward()
        return memory.peak
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        forward()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


class PeakMemory(TorchDispatchMode):
    """The most bytes that storages made inside it held at once; each counts until nothing refers to it."""

    def __init__(self):
        super().__init__()
        self._known = weakref.WeakKeyDictionary()
        self._held = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for given in _storages((args, kwargs)):
            self._known.setdefault(given, 0)  # not made here: a weight or an input
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            if storage not in self._known:
                self._known[storage] = size = storage.nbytes()
                self._held += size
                weakref.finalize(storage, self._release, size)
        self.peak = max(self.peak, self._held)
        return out

    def _release(self, size: int) -> None:
        self._held -= size


def _storages(values) -> list[torch.UntypedStorage]:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def process_growth(forward) -> int | None:
    """Bytes by which one call makes the process grow at most; None where the system does not tell (not Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        libc.mallopt(M_MMAP_THRESHOLD, MAP_FROM_BYTES)
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to the present size
    before = _status_bytes("VmRSS")
    forward()
    return _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


class Subject:
    """One network in a child process, measured by message; use as a context manager.

    The process does only what it is asked, so two subjects can take turns at being timed without running at once.
    """

    def __init__(self, name: str):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name), daemon=True)
        self._process.start()
        theirs.close()
        self.name = name

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *_exc):
        self._process.terminate()
        self._process.join()

    def ask(self, question: str | Case):
        """Build a case; then answer to "flops", "seconds", "activations", "growth" or "weights" (bytes) of it.

        Raises RuntimeError if the process failed; its own traceback is on standard error.
        """
        try:
            self._pipe.send(question)
            return self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            raise RuntimeError(
                f"measuring {question} of {self.name} ended with exit code {self._process.exitcode}; -9 means out of "
                "memory: try fewer --frames, a smaller --size or a --width-divisor"
            ) from None


@torch.no_grad()
def _serve(pipe, name: str) -> None:
    """Build what is asked for and answer questions on it until the process is ended."""
    answers: dict[str, Callable] = {}
    while True:
        try:
            question = pipe.recv()
        except EOFError:  # the parent is gone
            return
        if isinstance(question, Case):
            answers.clear()  # of the network before
            answers.update(_answers(name, question))
            pipe.send(None)
        else:
            pipe.send(answers[question]())


def _answers(name: str, case: Case) -> dict[str, Callable]:
    """What a network tells of itself, by question."""
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    unet, forward = SUBJECTS[name](case)
    return {
        "weights": lambda: sum(parameter.nbytes for parameter in unet.parameters()),
        "flops": lambda: count_flops(forward),
        "seconds": lambda: seconds(forward, case.device),
        "activations": lambda: peak_activations(forward, case.device),
        "growth": lambda: process_growth(forward) if case.device == "cpu" else None,
    }
