"""Moving previews: while a LaVie clip is sampled, all its frames as one small picture.

Contract: latents become pictures by ComfyUI's linear map from latent channels to colours. Copying, encoding and sending
happen on a thread of their own; all of it takes at most SHARE of the time of sampling.
"""

from __future__ import annotations

import base64
import io
import logging
import math
import time
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from PIL import Image
from torch.nn import functional

from ..metadata import read_colors

SHARE = 0.02  # of the time of sampling
INTERVAL_S = 0.25  # between two previews at least
MAX_FRAMES = 128  # in one message; of longer clips every second, third ... frame
BLOCK = 8  # pixels of a JPEG block: cells of whole blocks do not bleed into one another
QUALITY = 90


def set_colors(latent_format, metadata: dict[str, str]) -> None:
    """Give a latent format, ComfyUI's own previews included, the colours that a file's metadata states, if it does."""
    if colors := read_colors(metadata):
        latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias = colors


def frame_colors(latents: torch.Tensor, latent_format, size: int) -> torch.Tensor:
    """Pictures of latents (F, 4, h, w): uint8 (F, h', w', 3), edges whole blocks, about ``size`` pixels at most.

    The edges of small latents are kept, those of large ones averaged down. Stays on the device of the latents.
    """
    height, width = latents.shape[2:]
    scale = min(1.0, size / max(height, width))
    cell = [max(BLOCK, BLOCK * round(edge * scale / BLOCK)) for edge in (height, width)]
    factors = torch.tensor(latent_format.latent_rgb_factors, device=latents.device)
    bias = torch.tensor(latent_format.latent_rgb_factors_bias or [0.0] * 3, device=latents.device)
    small = functional.interpolate(latents.float(), size=cell, mode="area")
    colors = torch.einsum("fchw,cd->fhwd", small, factors) + bias
    return colors.add(1).mul(127.5).clamp(0, 255).to(torch.uint8)


def contact_sheet(frames: torch.Tensor) -> tuple[bytes, int]:
    """(JPEG of frames (F, h, w, 3) row by row, columns of it)."""
    count, height, width, _ = frames.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = frames.new_zeros(rows * columns, height, width, 3)
    sheet[:count] = frames
    sheet = sheet.reshape(rows, columns, height, width, 3).transpose(1, 2).reshape(rows * height, columns * width, 3)
    file = io.BytesIO()
    Image.fromarray(sheet.numpy()).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue(), columns


class Previews:
    """The previews of one run of a sampler: call `offer` after each step and `close` at the end."""

    def __init__(self, latent_format, size: int, send):
        """``send`` takes a dictionary for the message; called on the thread of the previews."""
        self.spent = 0.0  # seconds of computing
        self._format, self._size, self._send = latent_format, size, send
        self._thread = ThreadPoolExecutor(1, "lavie_preview")
        self._pending: Future | None = None
        self._began = time.perf_counter()
        self._last = -math.inf

    def offer(self, latents: torch.Tensor) -> None:
        """Show ``latents`` (F, 4, h, w) if the last preview is done, old enough, and all were cheap enough."""
        now = time.perf_counter()
        busy = self._pending is not None and not self._pending.done()
        if busy or now - self._last < INTERVAL_S or self.spent > SHARE * (now - self._began):
            return
        self._last = now
        stride = math.ceil(latents.shape[0] / MAX_FRAMES)
        colors = frame_colors(latents[::stride], self._format, self._size)
        about = {"frames": colors.shape[0], "stride": stride, "width": latents.shape[3], "height": latents.shape[2]}
        self.spent += time.perf_counter() - now
        self._pending = self._thread.submit(self._show, colors, about)

    def _show(self, colors: torch.Tensor, about: dict) -> None:
        colors = colors.cpu()  # waits for the device, which costs the sampler nothing here
        began = time.thread_time()
        sheet, columns = contact_sheet(colors)
        self._send({**about, "columns": columns, "image": base64.b64encode(sheet).decode()})
        self.spent += time.thread_time() - began

    def close(self) -> None:
        self._thread.shutdown()
        if self._pending is not None and (error := self._pending.exception()):
            logging.warning("LaVie could not show a preview: %s", error)  # the clip itself is not lost for it
