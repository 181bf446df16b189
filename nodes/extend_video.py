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
import comfy.sample
import comfy.utils
import latent_preview
import torch
from comfy_api.latest import io

from ..lavie_models.comfyui.frames import conds_of_frames
from ..lavie_models.comfyui.model import SOURCE_LATENTS
from .latent import LATENT_CHANNELS

DENOISE = 0.8  # measured: docs/long_video.md

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """One clip to sample: frames ``start`` .. ``stop`` - 1 of the video, of which those before ``new`` are given."""

    start: int
    new: int
    stop: int

    @property
    def frames(self) -> slice:
        return slice(self.start, self.stop)


def plan_clips(given: int, frames: int, clip_frames: int, overlap: int) -> list[Clip]:
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
        clips.append(Clip(max(0, stop - clip_frames), given, stop))
        given = stop
    return clips


def extend(video: torch.Tensor, clips: list[Clip], sample: Callable[[Clip, torch.Tensor], torch.Tensor]):
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


class LaVieExtendVideo(io.ComfyNode):
    """Extend a video again and again with the artist's own sampling."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LaVieExtendVideo",
            display_name="LaVie Extend Video",
            category="LaVie",
            description="Makes a video longer, clip by clip: each new clip begins with the last frames of what there "
            "is, which a mask holds, and the network goes on from them. Works with the published base. "
            "With a first-frame-conditioned base each clip is also given its first frame.",
            search_aliases=["lavie", "long video", "extend", "continue video", "autoregressive"],
            inputs=[
                io.Noise.Input("noise", tooltip="From Random Noise. Every frame of the video has noise of its own."),
                io.Guider.Input(
                    "guider",
                    tooltip="Model, prompts and guidance. Prompts, masks and ControlNet hints that hold one entry per "
                    "frame of the long video follow the clips.",
                ),
                io.Sampler.Input("sampler", tooltip="Used for every clip."),
                io.Sigmas.Input(
                    "sigmas",
                    tooltip="Used for every clip, as far as denoise says. Start from full noise: denoise 1 there.",
                ),
                io.Latent.Input(
                    "latent",
                    tooltip="The video to extend: the output of a sampler, or VAE Encode of frames. It stays as it is.",
                ),
                io.Int.Input(
                    "total_frames", default=40, min=2, max=4096,
                    tooltip="Frames of the whole video, those given included."
                ),
                io.Int.Input(
                    "clip_frames", default=16, min=2, max=128,
                    tooltip="Frames sampled at a time, held ones included. Trained at 16.",
                ),
                io.Int.Input(
                    "overlap", default=4, min=1, max=127,
                    tooltip="Frames that a clip takes over from what there is. More keep motion and looks better, and "
                    "take more clips.",
                ),
                io.Float.Input(
                    "denoise", default=DENOISE, min=0.01, max=1.0, step=0.01, optional=True,
                    tooltip="Share of the steps that new frames go through, the last ones. They start as the last "
                    "frame so far under that much noise: below 1 background and look carry over, lower keeps more and "
                    "moves less. At 1 what the prompt leaves open may come out anew.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    tooltip="The whole video. If the run is interrupted, what was finished by then, unless no clip was."
                )
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, noise, guider, sampler, sigmas, latent, total_frames, clip_frames, overlap, denoise=DENOISE
    ) -> io.NodeOutput:
        video = latent["samples"]
        if video.ndim != 4 or not video.any():
            got = "an empty latent" if video.ndim == 4 else f"a latent of shape {tuple(video.shape)}"
            raise ValueError(
                f"expected the latent of a video, (frames, {LATENT_CHANNELS}, height, width), got {got}; connect the "
                "output of a sampler, or VAE Encode of frames"
            )
        config = guider.model_patcher.model.model_config.lavie_config
        if config is None or config.stage != "base":
            raise ValueError(
                "LaVie Extend Video goes on with a LaVie base model; for long clips of another stage use LaVie Context "
                "Windows"
            )
        clips = plan_clips(len(video), total_frames, clip_frames, overlap)
        sigmas = last_part(sigmas, denoise)
        steps = max(0, len(sigmas) - 1)
        show = latent_preview.prepare_callback(guider.model_patcher, steps * len(clips))

        def sample(clip: Clip, given: torch.Tensor) -> torch.Tensor:
            done = steps * clips.index(clip)
            return _sample_clip(
                guider, noise, sampler, sigmas, clip, total_frames, given,
                lambda step, x0, x, _total: show(done + step, x0, x, steps * len(clips)),
            )  # fmt: skip

        return io.NodeOutput({"samples": extend(video, clips, sample)})


def last_part(sigmas: torch.Tensor, share: float) -> torch.Tensor:
    """The noise levels of the last steps, ``share`` (above 0, to 1) of all of them and one at least."""
    steps = round((len(sigmas) - 1) * share)
    return sigmas[-(max(steps, 1) + 1) :]


def takes_first_frame(model) -> bool:
    """Whether a LaVie base model's input has channels for its first frame."""
    return model.model.model_config.lavie_config.in_channels > LATENT_CHANNELS


def _sample_clip(guider, noise, sampler, sigmas, clip: Clip, total: int, given: torch.Tensor, callback):
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
