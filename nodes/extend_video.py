"""Long videos, clip by clip."""

from __future__ import annotations

from comfy_api.latest import io

from ..lavie_models.comfyui.extend import extend_video, last_part, plan_clips
from .inputs import MAX_FRAMES, checked

DENOISE = 0.8  # measured: docs/long_video.md


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
                    tooltip="Noise levels of every clip. Leave denoise at 1 in the scheduler; denoise here takes the "
                    "last part of them.",
                ),
                io.Latent.Input(
                    "latent",
                    tooltip="The video to extend: the output of a sampler, or VAE Encode of frames. It stays as it is.",
                ),
                io.Int.Input(
                    "total_frames", default=40, min=2, max=MAX_FRAMES,
                    tooltip="Frames of the whole video, those given included."
                ),
                io.Int.Input(
                    "clip_frames", default=16, min=2, max=128,
                    tooltip="Frames sampled at a time, held ones included. Trained at 16.",
                ),
                io.Int.Input(
                    "overlap", default=4, min=1, max=127,
                    tooltip="Frames that each clip takes over from the end of the video. A larger overlap makes "
                    "seams smaller, keeps the look better, needs more clips and costs some of the motion.",
                ),
                io.Float.Input(
                    "denoise", default=DENOISE, min=0.01, max=1.0, step=0.01, optional=True,
                    tooltip="New frames start as a copy of the last frame under noise, and go through this share of "
                    "the steps. Below 1 they keep background and look; a lower value keeps more and moves "
                    "less. At 1 whatever the prompt does not say may change.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    tooltip="The whole video. An interrupted run gives the clips that were finished; it fails if "
                    "there is none."
                )
            ],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, noise, guider, sampler, sigmas, latent, total_frames, clip_frames, overlap, denoise=DENOISE
    ) -> io.NodeOutput:
        video = latent["samples"]
        if not video.any():
            raise ValueError(
                "expected the latent of a video, got an empty latent; connect the output of a sampler, or VAE Encode "
                "of frames"
            )
        config = guider.model_patcher.model.model_config.lavie_config
        if config is None or config.stage != "base":
            raise ValueError(
                "LaVie Extend Video goes on with a LaVie base model; for long clips of another stage use LaVie Context "
                "Windows"
            )
        clips = plan_clips(len(video), total_frames, clip_frames, overlap)
        longer = extend_video(guider, noise, sampler, last_part(sigmas, denoise), video, clips, total_frames)
        return io.NodeOutput({"samples": longer})
