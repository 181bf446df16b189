"""Long videos, clip by clip: each new clip begins with the last frames of what there is, held by a mask.

Held frames under the highest noise say nothing: there the network decides by noise and prompt alone what the prompt
leaves open, such as a background. New frames therefore start from the last frame, and below that noise.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass

import comfy.model_management
import comfy.utils
import latent_preview
import torch

from ..config import LATENT_CHANNELS
from .model import SOURCE_LATENTS
from .windows import check_frames, conds_of_frames

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedClip:
    """One clip to sample: frames ``start`` .. ``stop`` - 1 of the video, of which those before ``new`` are given."""

    start: int
    new: int
    stop: int

    @property
    def frames(self) -> slice:
        return slice(self.start, self.stop)


def plan_clips(given: int, frames: int, clip_frames: int, overlap: int) -> list[PlannedClip]:
    """The clips that extend ``given`` frames to ``frames``; the last one overlaps more where frames run out.

    Raises:
        ValueError: saying which number does not fit.
    """
    if not 1 <= overlap < clip_frames:
        raise ValueError(
            f"overlap must be 1 to {clip_frames - 1}, fewer frames than clip_frames {clip_frames}; got {overlap}"
        )
    if given < overlap:
        raise ValueError(
            f"the video has {given} frames, but each clip starts from {overlap} of them; use a smaller overlap or a "
            "longer video"
        )
    if frames <= given:
        raise ValueError(f"the video has {given} frames already; set total_frames to more than that, got {frames}")
    clips = []
    while given < frames:
        stop = min(frames, given - overlap + clip_frames)
        clips.append(PlannedClip(max(0, stop - clip_frames), given, stop))
        given = stop
    return clips


def extend(video: torch.Tensor, clips: list[PlannedClip], sample: Callable[[PlannedClip, torch.Tensor], torch.Tensor]):
    """Append each clip's new frames to ``video`` (F, 4, h, w); an interruption ends it with the clips done so far.

    ``sample`` gets a clip and the given frames of it, (new - start, 4, h, w), and returns all its frames.

    Raises:
        InterruptProcessingException: if there is no whole clip yet.
    """
    for number, clip in enumerate(clips):
        try:
            latent = sample(clip, video[clip.start : clip.new])
        except comfy.model_management.InterruptProcessingException:
            if number == 0:
                raise
            logger.warning(
                "interrupted in clip %d of %d; the %d frames so far are kept", number + 1, len(clips), len(video)
            )
            return video
        video = torch.cat((video, latent[clip.new - clip.start :].to(video)))
    return video


def extend_video(
    guider, noise, sampler, sigmas: torch.Tensor, video: torch.Tensor, clips: list[PlannedClip], total: int
) -> torch.Tensor:
    """``video`` (F, 4, h, w) extended by ``clips`` to ``total`` frames; progress goes over all clips.

    Args:
        guider, noise, sampler, sigmas: as SamplerCustomAdvanced takes them; the same for every clip.

    Raises:
        ValueError: if texts, masks or hints are neither one nor ``total``.
    """
    check_frames(guider.original_conds, total, "total_frames is {}")
    steps = max(0, len(sigmas) - 1)
    show = latent_preview.prepare_callback(guider.model_patcher, steps * len(clips))

    def sample(clip: PlannedClip, given: torch.Tensor) -> torch.Tensor:
        done = steps * clips.index(clip)
        return sample_clip(
            guider, noise, sampler, sigmas, clip, total, given,
            lambda step, x0, x, _total: show(done + step, x0, x, steps * len(clips)),
        )  # fmt: skip

    return extend(video, clips, sample)


def last_part(sigmas: torch.Tensor, share: float) -> torch.Tensor:
    """The noise levels of the last steps, ``share`` (above 0, to 1) of all of them and one at least.

    Raises:
        ValueError: if there is no step, or levels do not fall.
    """
    if len(sigmas) < 2 or not (sigmas.diff() < 0).all() or sigmas[-1] < 0:
        raise ValueError(
            f"sigmas must be two or more noise levels that fall, got {[round(one, 3) for one in sigmas[:6].tolist()]}"
            f"{'...' if len(sigmas) > 6 else ''}; take them from LaVie Scheduler or another scheduler, denoise above 0"
        )
    steps = round((len(sigmas) - 1) * share)
    return sigmas[-(max(steps, 1) + 1) :]


def takes_first_frame(model) -> bool:
    """Whether a LaVie base model's input has channels for its first frame."""
    return model.model.model_config.lavie_config.in_channels > LATENT_CHANNELS


def sample_clip(guider, noise, sampler, sigmas, clip: PlannedClip, total: int, given: torch.Tensor, callback):
    """All frames of one clip, the given ones unchanged; the others start as the last of those, under noise."""
    length, held = clip.stop - clip.start, len(given)
    start = torch.cat((given, given[-1:].expand(length - held, -1, -1, -1)))
    mask = torch.ones(length, 1, *given.shape[2:])
    mask[:held] = 0.0
    # Frame numbers choose the noise: the same as one long latent would get.
    noisy = noise.generate_noise({"samples": start, "batch_index": list(range(clip.start, clip.stop))})
    part = copy.copy(guider)
    first = {SOURCE_LATENTS: given[:1]} if takes_first_frame(guider.model_patcher) else {}
    part.original_conds = {
        name: [{**cond, **first} for cond in conds_of_frames(conds, clip.frames, total)]
        for name, conds in guider.original_conds.items()
    }
    return part.sample(
        noisy, start, sampler, sigmas, denoise_mask=mask, callback=callback, seed=(noise.seed + clip.start) % 2**64,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
    )  # fmt: skip
