"""Clips longer than a window: no seams where windows meet, and memory that depends on the window, not on the clip."""

import functools
import json

import comfy.context_windows
import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfyui_lavie.bench import hashed
from comfyui_lavie.bench.hashed import GoldenCase
from comfyui_lavie.bench.measure import peak_activations
from comfyui_lavie.lavie_models import LaVieUNet, UNetConfig
from comfyui_lavie.lavie_models.comfyui.model import LOW_RESOLUTION, NOISE_LEVEL, SOURCE_LATENTS, load_model
from comfyui_lavie.lavie_models.conditioning import interpolation_sources, noise_low_resolution
from comfyui_lavie.nano.shapes import render, sample_scene
from comfyui_lavie.nodes.context_windows import LaVieContextWindows, windows
from comfyui_lavie.nodes.video import DecodedFrames, LatentVideo, LaVieDecodeToVideo
from safetensors.torch import save_file

SIZE = 8  # latent pixels
TEXT = hashed.tensor("input/long_clips/text", (1, 7, 48))
WINDOW = {"interpolation": (13, 5), "super_resolution": (8, 4)}  # length, overlap
CASES = {"interpolation": "interpolation_forward", "super_resolution": "vsr_forward"}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """load(stage): the small golden model as a MODEL."""

    @functools.cache
    def load(stage):
        path = tmp_path_factory.mktemp("models") / f"{stage}.safetensors"
        config = json.dumps(GoldenCase(CASES[stage]).config().to_dict())
        save_file(hashed.small_published_weights(stage), path, {"lavie.stage": stage, "lavie.config": config})
        return load_model(str(path), stage, {"dtype": torch.float32})

    return load


def moving_thing(frames: int, size: int) -> torch.Tensor:
    """A clip of the synthetic videos, (frames, 3, size, size) in -1 .. 1."""
    return torch.from_numpy(render(sample_scene(3), frames, size)).permute(0, 3, 1, 2).float() / 127.5 - 1


def conditioning(stage: str, frames: int) -> list:
    """A real clip as a stage wants it; the same noise on every frame, so that frames differ by the clip alone."""
    if stage == "super_resolution":
        noise = hashed.tensor("input/long_clips/low_noise", (1, 3, SIZE, SIZE))
        noised = noise_low_resolution(moving_thing(frames, SIZE), noise, torch.tensor(50))
        return [[TEXT, {LOW_RESOLUTION: noised, NOISE_LEVEL: 50}]]
    inputs = (frames - 1) // 4 + 1
    clip = moving_thing(inputs, SIZE)
    latents = torch.cat((clip, clip.mean(1, keepdim=True)), dim=1)  # four channels, as moving as the pixels
    return [[TEXT, {SOURCE_LATENTS: latents[interpolation_sources(inputs)] / 0.18215}]]


def sample(model, stage: str, frames: int, steps: int = 8, guidance: float = 1.0) -> torch.Tensor:
    noise = hashed.tensor("input/long_clips/noise", (1, 4, SIZE, SIZE)).expand(frames, -1, -1, -1).clone()
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "ddim_uniform", steps)
    conds = conditioning(stage, frames)
    return comfy.sample.sample_custom(
        model, noise, guidance, comfy.samplers.sampler_object("ddim"), sigmas, conds, conds, torch.zeros_like(noise),
        disable_pbar=True, seed=0,
    )  # fmt: skip


def border_ratio(clip: torch.Tensor, borders: list[int]) -> float:
    """Mean change from frame b - 1 to frame b at ``borders`` over the mean change elsewhere."""
    change = (clip[1:] - clip[:-1]).abs().mean((1, 2, 3))
    at_border = torch.zeros(len(change), dtype=torch.bool)
    at_border[[b - 1 for b in borders]] = True
    return (change[at_border].mean() / change[~at_border].mean()).item()


@pytest.mark.parametrize(("stage", "frames"), [("interpolation", 29), ("super_resolution", 24)])
def test_no_seams_between_windows(load, stage, frames):
    """Overlapping windows leave no seam; the reference's chunks, each on its own, do."""
    length, overlap = WINDOW[stage]
    model = LaVieContextWindows.execute(load(stage), length, overlap, "pyramid", False).result[0]
    starts = list(range(length - overlap, frames - overlap, length - overlap))
    ends = [start + overlap for start in starts]  # where the window before ends
    assert border_ratio(sample(model, stage, frames), sorted({*starts, *ends} - {frames})) <= 1.1

    handler = model.model_options["context_handler"]
    handler.context_schedule = comfy.context_windows.get_matching_context_schedule(
        comfy.context_windows.ContextSchedules.BATCHED
    )
    handler.context_length = length - length % 4  # chunks of interpolation, too, begin at input frames
    chunks = range(handler.context_length, frames, handler.context_length)
    assert border_ratio(sample(model, stage, frames), list(chunks)) > 1.3


@pytest.fixture(scope="module")
def tiny_upscaler(tmp_path_factory):
    """A super-resolution MODEL as small as they come."""
    config = UNetConfig.super_resolution(
        block_channels=(32, 32), layers_per_block=1, num_heads=1, context_dim=48, attention_levels=(False, True)
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    weights = {key: value.contiguous() for key, value in LaVieUNet(config).state_dict().items()}
    save_file(weights, path, {"lavie.stage": config.stage, "lavie.config": json.dumps(config.to_dict())})
    return load_model(str(path), "super_resolution")


def test_sampling_memory_depends_on_the_window(tiny_upscaler):
    """With windows a further frame costs some copies of its latent; without them, all the network's activations."""
    windowed = LaVieContextWindows.execute(tiny_upscaler, 8, 4, "pyramid", False).result[0]

    def peak(model, frames):
        def run():
            sample(model, "super_resolution", frames, steps=1, guidance=5.0)

        return peak_activations(run, "cpu")

    latent = 4 * SIZE * SIZE * 4  # bytes of one frame in float32
    few, more, many = 16, 36, 92
    peaks = {frames: peak(windowed, frames) for frames in (few, more, many)}
    per_frame = max((peaks[more] - peaks[few]) / (more - few), (peaks[many] - peaks[more]) / (many - more))
    whole = (peak(tiny_upscaler, 24) - peak(tiny_upscaler, 16)) / 8
    assert per_frame <= 12 * latent, f"{per_frame / latent:.1f} latents a frame"
    assert whole > 10 * per_frame, f"{whole / latent:.1f} latents a frame without windows"


def test_decoding_to_a_file_holds_a_few_frames(tmp_path, nano_vae):
    """However long the clip, no more than a batch of frames exists; the file has them all."""

    def peak(frames):
        video = LaVieDecodeToVideo.execute({"samples": torch.zeros(frames, 4, SIZE, SIZE)}, nano_vae, 8.0, 4).result[0]
        return peak_activations(lambda: video.save_to(str(tmp_path / f"{frames}.mp4")), "cpu")

    frame = 3 * (8 * SIZE) ** 2 * 4
    peaks = [peak(frames) for frames in (16, 61, 200)]
    assert max(peaks) - min(peaks) < frame, peaks


def test_a_decoded_video_is_what_vae_decode_gives(tmp_path, nano_vae):
    latent = hashed.tensor("input/long_clips/latent", (7, 4, SIZE, SIZE)) / 0.18215
    video = LaVieDecodeToVideo.execute({"samples": latent}, nano_vae, 24.0, 3).result[0]
    assert video.get_dimensions() == (8 * SIZE, 8 * SIZE)
    assert (video.get_frame_count(), video.get_frame_rate(), video.get_duration()) == (7, 24, pytest.approx(7 / 24))
    torch.testing.assert_close(video.get_components().images, nano_vae.decode(latent), atol=1e-5, rtol=0)
    video.save_to(str(tmp_path / "clip.mp4"))
    half = video.as_trimmed(0.0, 3 / 24)
    assert half.get_frame_count() == 3


def test_decoding_stops_at_an_interrupt(nano_vae):
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        LatentVideo(DecodedFrames(nano_vae, torch.zeros(4, 4, SIZE, SIZE), 2, None, 1.0), 8).get_components()


def test_windows_of_each_stage():
    trained = {"base": (16, 8), "interpolation": (61, 13), "super_resolution": (8, 4)}
    assert {stage: windows(stage, 0, 0) for stage in trained} == trained
    assert windows("base", 24, 3) == (24, 3)
    with pytest.raises(ValueError, match="8 frames cannot share 8; use an overlap below"):
        windows("super_resolution", 8, 8)
    with pytest.raises(ValueError, match=r"multiple of 4 and 1 more, below the length, got 12; use 9 or 13"):
        windows("interpolation", 61, 12)
