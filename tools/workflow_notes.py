"""The text of the note that stands first in every workflow file."""

from __future__ import annotations

from .workflow_variants import (
    DENOISE,
    DOWNLOADS,
    EXAMPLE_SECONDS,
    EXAMPLE_VIDEO,
    FRAMES,
    LONG_FRAMES,
    NANO,
    USES,
    Variant,
)

MAKES = {
    "text_to_video": "A video of {frames} frames, {width} x {height} pixels, 8 frames per second, from a prompt.",
    "text_to_video_interpolation": "A video from a prompt, then four times as many frames: {interpolated} instead of "
    "{frames}, {width} x {height} pixels, 24 per second. Both are saved.",
    "text_to_video_super_resolution": "A video from a prompt, then four times as wide and high: {frames} frames, "
    "{wide} x {high} pixels, 8 per second. Both are saved.",
    "cascade": "The whole cascade: a video from a prompt ({frames} frames, {width} x {height} pixels), then four times "
    "as many frames ({interpolated}, 24 per second), then four times as wide and high ({wide} x {high} pixels). "
    "Each of the three is saved.",
    "video_to_video": "An existing video, repainted to a prompt: its frames are encoded, noised in part, and sampled "
    "from there.",
    "interpolate_video": "An existing video with three new frames between each two, at the same speed: n frames become "
    "4 (n - 1) + 1, and four times as many are shown per second.",
    "upscale_video": "An existing video, four times as wide and high.",
    "long_video": "A video of {long} frames, {width} x {height} pixels, 8 per second, from a prompt. All frames are "
    "sampled together, in windows of 16 that share 8 with their neighbours.",
    "long_video_extended": "A video of {long} frames, {width} x {height} pixels, 8 per second, from a prompt: a first "
    "clip, then clip after clip, each beginning with the last frames of what there is.",
    "extend_video": "An existing video that goes on: {long} frames in all, clip after clip, each beginning with the "
    "last frames of what there is. Its own frames stay.",
}
REFERENCE = {
    "base": "Base: DDIM, 50 steps, guidance 7.5, as its authors sample it. Every core sampler works: a KSampler "
    "does for the sampling nodes as well.",
    "interpolation": 'Interpolation: DDIM at the spacing *interpolation*, 50 steps, guidance 4; ", 4k." behind the '
    'prompt; the negative prompt is the word "None".',
    "super_resolution": 'Super-resolution: DDIM, 50 steps, guidance 5, noise level 50; negative prompt "blur, worst '
    'quality". It reads its prompt through a text encoder of its own and has a VAE of its own.',
}
TRY = {
    "base": "For another video change the seed. For a longer one raise *frames* and put LaVie Context Windows behind "
    "the base model.",
    "interpolation": "24 frames per second is a little slower than the 8 of the base video; 32 keeps its speed.",
    "super_resolution": "A higher *noise_level* invents more detail and keeps less. The clip is sampled in windows of "
    "8 frames that share 4, so its length costs time but not memory. A clip that is too large at four times its size "
    "can be made smaller with Upscale Image before.",
    "video_to_video": f"*denoise* {DENOISE} keeps the motion and much of the picture; 1 keeps nothing.",
    "long_video": "*freenoise* repeats the first window's noise along the video: windows agree more. A larger "
    "*overlap* blends more and takes longer.",
    "long_video_extended": "A larger *overlap* keeps motion and looks better and takes more clips; a lower *denoise* "
    "keeps more of the look and moves less. Interrupting keeps the clips that are finished. For prompts that change "
    "put LaVie Frame Prompts, with *frames* as *total_frames*, in the place of the positive prompt.",
    "extend_video": "With a first-frame-conditioned base choose *overlap* 1: each clip is given the last frame before "
    "it. Interrupting keeps the clips that are finished.",
    "interpolate_video": "3 instead of the 4 in *Frames per second* makes it slower, as in the published cascade.",
}
TRY["upscale_video"] = TRY["super_resolution"]
YOUR_VIDEO = (
    f"**Your video**: choose it in Load Video, where `{EXAMPLE_VIDEO}` of ComfyUI's input folder is asked for. Trim "
    f"Video takes the first {EXAMPLE_SECONDS:g} seconds; a duration of 0 takes all. The sound is kept."
)
VOCABULARY = (
    "The nano models were trained on moving shapes. They understand\n\n"
    "`a {red|green|blue|yellow|purple|cyan} {fish|rocket|car|circle|square|triangle} moving {left|right|up|down}`\n\n"
    "and, behind that, ` on a {black|gray|white} background`. Clips begin with 16 frames of 64 x 64 pixels, 8 a second."
)


def note_text(variant: Variant, use: str) -> str:
    """Markdown: what the workflow makes, the files it needs and where they are, what to try."""
    stages = USES[use].stages
    sizes = {
        "frames": FRAMES, "interpolated": 4 * (FRAMES - 1) + 1, "long": LONG_FRAMES, "width": variant.width,
        "height": variant.height, "wide": 4 * variant.width, "high": 4 * variant.height,
    }  # fmt: skip
    parts = [MAKES[use].format(**sizes)]
    if USES[use].from_video:
        parts.append(YOUR_VIDEO)
        if stages != ("super_resolution",):
            parts.append(f"Frames are scaled to {variant.width} x {variant.height}; what juts out is cut off.")
    if variant is NANO:
        parts += ["**Files**: all come with this pack.", VOCABULARY]
    else:
        parts.append("**Files**, to be put under `models/`\n" + _files(variant, stages))
        parts.append("**Settings**\n" + "\n".join(f"- {REFERENCE[stage]}" for stage in stages))
    tips = [TRY[key] for key in ((use,) if use in TRY else stages)]
    return "\n\n".join([*parts, "**Try**\n" + "\n".join(f"- {tip}" for tip in tips)])


def _files(variant: Variant, stages: tuple[str, ...]) -> str:
    names = dict.fromkeys(name for stage in stages for name in variant.stages[stage][:3])
    lines = []
    for name in names:
        folder, url, _ = DOWNLOADS[name]
        own = url.rsplit("/", 1)[1]
        lines.append(f"- `{folder}/{name}`: [{own}]({url})" + ("" if own == name else ", to be renamed"))
    return "\n".join(lines)
