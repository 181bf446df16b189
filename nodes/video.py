"""Last step: a clip decoded while it is written, so that its frames are never in memory all at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import Input, InputImpl, Types, io

from ..files import whole_file
from ..lavie_models.comfyui.color import LARGEST_RADIUS, LEAST_RADIUS, RADIUS, check_reference, correct_colors
from .frames import decoded_bytes, require_image_vae
from .inputs import checked
from .latent import DECODED_BY
from .notices import readable_bytes, tell


class DecodedFrames:
    """Frames (F, H, W, 3) that exist only while they are iterated over, ``batch`` at a time.

    With the colours of ``reference``, (F, h, w, C), where there is one; ``radius`` as `correct_colors` takes it.
    """

    def __init__(self, vae, samples: torch.Tensor, batch: int, reference: torch.Tensor | None, radius: float):
        self.vae, self.samples, self.batch = vae, samples, batch
        self.reference, self.radius = reference, radius
        factor = vae.spacial_compression_decode()
        count, _, height, width = samples.shape
        self.shape = (count, height * factor, width * factor, 3)
        if reference is not None:
            check_reference(self.shape, reference)

    def __iter__(self) -> Iterator[torch.Tensor]:
        progress = comfy.utils.ProgressBar(self.shape[0])
        for start in range(0, self.shape[0], self.batch):
            comfy.model_management.throw_exception_if_processing_interrupted()
            part = slice(start, start + self.batch)
            frames = self.vae.decode(self.samples[part])
            if self.reference is not None:
                frames = correct_colors(frames, self.reference[part], self.radius)
            yield from frames
            progress.update(len(frames))


class LatentVideo(Input.Video):
    """A VIDEO that is decoded when it is saved. What needs all frames at once gets them from `get_components`."""

    def __init__(self, frames: DecodedFrames, frame_rate: Fraction, audio: Input.Audio | None = None):
        self._frames, self._rate, self._audio = frames, frame_rate, audio

    def get_components(self) -> Types.VideoComponents:
        return self._components(torch.stack(list(self._frames)))

    def _components(self, images) -> Types.VideoComponents:
        return Types.VideoComponents(images=images, frame_rate=self._rate, audio=self._audio)

    def save_to(self, path, format=Types.VideoContainer.AUTO, **options) -> None:
        """Write as core does for a VIDEO of images, with its options; a file is there whole or not at all."""
        video = InputImpl.VideoFromComponents(self._components(self._frames))
        if not isinstance(path, str | os.PathLike):  # a buffer
            video.save_to(path, format=format, **options)
            return
        container = Types.VideoContainer.MP4 if format == Types.VideoContainer.AUTO else format
        with whole_file(path) as part:
            video.save_to(str(part), format=container, **options)

    def as_trimmed(self, start_time=None, duration=None, strict_duration=True) -> Input.Video | None:
        return InputImpl.VideoFromComponents(self.get_components()).as_trimmed(start_time, duration, strict_duration)

    def get_dimensions(self) -> tuple[int, int]:
        return self._frames.shape[2], self._frames.shape[1]

    def get_frame_count(self) -> int:
        return self._frames.shape[0]

    def get_frame_rate(self) -> Fraction:
        return self._rate

    def get_duration(self) -> float:
        return float(self.get_frame_count() / self._rate)


class LaVieDecodeToVideo(io.ComfyNode):
    """LATENT -> VIDEO whose frames are decoded a few at a time while the file is written."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LaVieDecodeToVideo",
            display_name="LaVie Decode to Video",
            category="LaVie",
            description="A video that core Save Video decodes while it writes the file: memory holds a few frames, "
            "however long the clip. Where later nodes need images, use VAE Decode.",
            search_aliases=["lavie", "decode", "vae decode", "video", "low memory", "stream"],
            inputs=[
                io.Latent.Input("samples", tooltip="The sampler's result, one frame per batch entry."),
                io.Vae.Input(
                    "vae",
                    tooltip="The VAE that the latent belongs to: of Stable Diffusion 1.x for base and interpolation, "
                    "the x4-upscaler's for super-resolution.",
                ),
                io.Float.Input(
                    "fps", default=8.0, min=1.0, max=120.0, step=1.0,
                    tooltip="Frames per second. Published: 8 for the base model, 24 after interpolation.",
                ),
                io.Int.Input(
                    "frames_at_once", default=4, min=1, max=64, advanced=True,
                    tooltip="Frames decoded together. A larger number is faster where memory allows.",
                ),
                io.Float.Input(
                    "radius", default=RADIUS, min=LEAST_RADIUS, max=LARGEST_RADIUS, step=LEAST_RADIUS, advanced=True,
                    optional=True,  # workflows from before it was there do without it
                    tooltip="Where detail ends and colour begins, in pixels of the reference; see LaVie Color "
                    "Correction. Not read without a reference.",
                ),
                io.Audio.Input(
                    "audio", optional=True, tooltip="Sound of the video, such as that of the clip it was made from."
                ),
                io.Image.Input(
                    "reference", optional=True,
                    tooltip="Of super-resolution: the frames that it started from. The video gets their colours, as "
                    "LaVie Color Correction does it, a few frames at a time.",
                ),
            ],
            outputs=[io.Video.Output(tooltip="For Save Video.")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, samples, vae, fps, frames_at_once, radius=RADIUS, audio=None, reference=None
    ) -> io.NodeOutput:
        latent = samples["samples"]
        require_image_vae(vae)
        factor, wanted = vae.spacial_compression_decode(), samples.get(DECODED_BY)
        if wanted not in (None, factor):
            names = {8: "the VAE of Stable Diffusion 1.x", 4: "the x4-upscaler's VAE"}
            raise ValueError(
                f"this latent has {wanted} pixels to a latent pixel, the VAE {factor}: connect {names[wanted]}"
            )
        frames = DecodedFrames(vae, latent, frames_at_once, reference, radius)
        count, height, width, _ = frames.shape
        saved = readable_bytes(decoded_bytes(count, height, width))
        tell(cls, f"{count} frames of {width} x {height} pixels, {count / fps:.3g} s (all at once: {saved})")
        return io.NodeOutput(LatentVideo(frames, Fraction(fps), audio))
