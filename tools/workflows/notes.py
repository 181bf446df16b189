"""The text of the note that stands first in every workflow file."""

from __future__ import annotations

from .templates import (
    CASCADE,
    DENOISE,
    DOWNLOADS,
    EXAMPLE_PICTURE,
    EXAMPLE_SECONDS,
    EXAMPLE_VIDEO,
    FRAMES,
    HOLDING,
    LCM_LORA,
    LONG_FRAMES,
    LOOP_FRAMES,
    NANO,
    START,
    TEMPLATES,
    USES,
    ModelSet,
)

MAKES = {
    "text_to_video": "A video of {frames} frames, {width} x {height} pixels, 8 frames per second, from a prompt.",
    "text_to_video_super_resolution": "A video from a prompt, then four times as wide and high: {frames} frames, "
    "{wide} x {high} pixels, 8 per second. Both are saved.",
    "cascade": "The whole cascade: a video from a prompt ({frames} frames, {width} x {height} pixels), then four times "
    "as many frames ({interpolated}, 24 per second), then four times as wide and high ({wide} x {high} pixels). "
    "Each of the three is saved as soon as it is finished: what fails or is interrupted later costs none of them.",
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
    "looping_video": "A video of {loop} frames, {width} x {height} pixels, 8 per second, whose last frame leads to its "
    "first: the windows in which it is sampled go around the ring.",
    "prompt_travel": "A video whose prompt changes on its way: one line per keyframe, blended between them. The node "
    "shows which frames get what. {frames} frames, {width} x {height} pixels, 8 per second.",
    "first_last_frame": "A video of {frames} frames between two pictures: they are its first and last frame, held by a "
    "mask while the rest is sampled.",
    "lora_on_frames": "A LoRA that works on a part of the clip: the first half is made without it, the second half "
    "with it and a prompt of its own.",
    "text_to_video_few_steps": "A video from a prompt in 6 steps instead of 50, by an LCM-LoRA of Stable Diffusion "
    "1.5: {frames} frames, {width} x {height} pixels, 8 per second. Core's nodes do it: Load LoRA, "
    "ModelSamplingDiscrete at *lcm*, KSampler.",
}
REFERENCE = {
    "base": "Base: DDIM, 50 steps, guidance 7.5, as its authors sample it. Every core sampler works: a KSampler "
    "does for the sampling nodes as well.",
    "interpolation": 'Interpolation: DDIM at the spacing *interpolation*, 50 steps, guidance 4; ", 4k." behind the '
    'prompt; the negative prompt is the word "None".',
    "super_resolution": 'Super-resolution: DDIM, 50 steps, guidance 5, noise level 50; negative prompt "blur, worst '
    'quality". It reads its prompt through a text encoder of its own and has a VAE of its own.',
}
LCM = (
    "Base with the LCM-LoRA: sampler *lcm*, scheduler *sgm_uniform*, 6 steps, guidance 1.3. The steps lie on LaVie's "
    "own noise levels."
)
TRY = {
    "base": "For another video change the seed. For a longer one raise *frames* and put LaVie Context Windows behind "
    "the base model.",
    "interpolation": "24 frames per second is a little slower than the 8 of the base video; 32 keeps its speed.",
    "cascade": "Only more frames: select *Super-resolution* and its *Save Video* and press Ctrl+M; again to switch "
    "them on.",
    "super_resolution": "A higher *noise_level* invents more detail and keeps less; *constant_noise* lessens flicker. "
    "The clip is sampled in windows of 8 frames that share 4, so its length costs time but not memory. A clip that is "
    "too large at four times its size can be made smaller with Upscale Image before. The video gets the colours of the "
    "frames before; 1 as *color_radius* takes more of clean frames, 4 or more takes less of noisy or compressed ones.",
    "video_to_video": f"*denoise* {DENOISE} keeps the motion and much of the picture; 1 keeps nothing.",
    "long_video": "*freenoise* repeats the first window's noise along the video: windows agree more. A larger "
    "*overlap* blends more and takes longer.",
    "long_video_extended": "A larger *overlap* makes seams smaller, keeps the look better, takes more clips and costs "
    "some of the motion; a lower *denoise* keeps more of the look and moves less. Interrupting keeps the clips that "
    "are finished. For prompts that change put LaVie Frame Prompts, with *frames* as *total_frames*, in the place of "
    "the positive prompt.",
    "extend_video": "With a first-frame-conditioned base choose *overlap* 1: each clip is given the last frame before "
    "it. Interrupting keeps the clips that are finished.",
    "looping_video": "*frames* must be more than the window's 16. Super-resolution loops too: *loop* on its LaVie "
    "Context Windows. Interpolation does not: it makes no frames from the last to the first.",
    "prompt_travel": "*frames* of the prompts and of the latent are the same number. For a sudden change name two "
    "frames that follow each other.",
    "first_last_frame": f"The frames between start from the nearer picture; *denoise* {HOLDING} lets them move, less "
    "keeps more of the pictures, and more lets what the prompt leaves open, such as the background, jump. With twice "
    "the same picture the video ends where it began.",
    "lora_on_frames": "Choose your LoRA on the stage; for one of Stable Diffusion 1.x, the published files too. Frames "
    "without and with it together are the *frames* of the clip.",
    "text_to_video_few_steps": "4 to 8 *steps*. *cfg* 1 takes half the time and reads no negative prompt; more than "
    "1.5 is more than such LoRAs are made for. Neither this LoRA nor LaVie's weights could be had where this pack was "
    "made: the steps are tested, what they look like is not.",
    "interpolate_video": "3 instead of the 4 in *Frames per second* makes it slower, as in the published cascade.",
}
TRY["upscale_video"] = TRY["super_resolution"]
YOUR_VIDEO = (
    f"**Your video**: choose it in Load Video, where `{EXAMPLE_VIDEO}` of ComfyUI's input folder is asked for. Trim "
    f"Video takes the first {EXAMPLE_SECONDS:g} seconds; a duration of 0 takes all. The sound is kept."
)
YOUR_PICTURES = (
    f"**Your pictures**: choose them in Load Image, where `{EXAMPLE_PICTURE}` of ComfyUI's input folder is asked for."
)
START_HERE = (
    "**Start here**: press Run. The small models come with this pack, and a computer without a graphics card makes "
    "this video in seconds. Then change the prompt, and the seed.\n\n"
    "**Next**: the other templates, sorted A to Z. *{cascade}* makes all three stages with the small models; those "
    "from *{published}* on are for the published ones, whose notes name the files to download.\n\n"
    "**Again**: a saved video holds the workflow that made it. Drop it on this canvas to have seed and settings back."
)
SMALL = (
    "**Without downloads**: choose the files `lavie_nano_...`, 64 as width and height where they are asked for, and a "
    "prompt such as `{prompt}`."
)
NONE_SMALL = (
    "**Without downloads** nothing is seen: the small models are not of this LoRA's sizes, and predict velocity, which "
    "ModelSamplingDiscrete does not expect at *lcm*."
)
VOCABULARY = (
    "The nano models were trained on moving shapes. They understand\n\n"
    "`a {red|green|blue|yellow|purple|cyan} {fish|rocket|car|circle|square|triangle} moving {left|right|up|down}`\n\n"
    "and, behind that, ` on a {black|gray|white} background`. Clips begin with 16 frames of 64 x 64 pixels, 8 a second."
)


def note_text(model_set: ModelSet, use: str) -> str:
    """Markdown: what the workflow makes, the files it needs and where they are, what to try."""
    stages = USES[use].stages
    sizes = {
        "frames": FRAMES, "interpolated": 4 * (FRAMES - 1) + 1, "long": LONG_FRAMES, "width": model_set.width,
        "height": model_set.height, "wide": 4 * model_set.width, "high": 4 * model_set.height, "loop": LOOP_FRAMES,
    }  # fmt: skip
    parts = [MAKES[use].format(**sizes)]
    if (model_set, use) == TEMPLATES[START]:
        parts.append(START_HERE.format(cascade=CASCADE, published=next(n for n in TEMPLATES if "small" not in n)))
    if USES[use].start == "pictures":
        parts.append(YOUR_PICTURES)
    if USES[use].start == "video":
        parts.append(YOUR_VIDEO)
        if stages != ("super_resolution",):
            parts.append(f"Frames are scaled to {model_set.width} x {model_set.height}; what juts out is cut off.")
    if model_set.prefix == NANO.prefix:
        parts += ["**Files**: all come with this pack.", VOCABULARY]
    else:
        few = USES[use].way == "few_steps"
        names = [name for stage in stages for name in model_set.stages[stage][:3]]
        parts.append("**Files**, to be put under `models/`\n" + _files([*names, *([LCM_LORA] if few else [])]))
        parts.append(NONE_SMALL if few else SMALL.format(prompt=NANO.prompt))
        parts.append("**Settings**\n" + "\n".join(f"- {LCM if few else REFERENCE[stage]}" for stage in stages))
    tips = [TRY[key] for key in ((use,) if use in TRY and len(stages) == 1 else (*stages, use)) if key in TRY]
    return "\n\n".join([*parts, "**Try**\n" + "\n".join(f"- {tip}" for tip in tips)])


def _files(names: list[str]) -> str:
    lines = []
    for name in dict.fromkeys(names):
        folder, url, _ = DOWNLOADS[name]
        own = url.rsplit("/", 1)[1]
        lines.append(f"- `{folder}/{name}`: [{own}]({url})" + ("" if own == name else ", to be renamed"))
    return "\n".join(lines)
