// What the graph tells about the clip at a node: its frames and size upstream; its rate, and the windows in which it is
// sampled, downstream.

import { behind, source, widgetValue } from "./graph.js";

const RATE_WIDGETS = ["fps", "frame_rate"];
// Nodes that make a model sample in windows: the widgets that say how long they are, and how much they share.
const WINDOW_WIDGETS = {
    LaVieContextWindows: ["length", "overlap"],
    ContextWindowsManual: ["context_length", "context_overlap"],
};
// Samplers, and all nodes that pass a clip on with its count and size: the inputs in which it comes.
const SAMPLES = {
    KSampler: "latent_image",
    KSamplerAdvanced: "latent_image",
    SamplerCustom: "latent_image",
    SamplerCustomAdvanced: "latent_image",
};
const PASSES_ON = {
    ...SAMPLES,
    VAEDecode: "samples",
    VAEDecodeTiled: "samples",
    VAEEncode: "pixels",
    VAEEncodeTiled: "pixels",
};

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** {frames, width, height} in pixels of the clip that `node` gives, or undefined where the graph does not tell. */
export function clipOf(node) {
    if (!node) return undefined;
    if (node.comfyClass === "EmptyLaVieLatent") {
        const clip = {};
        for (const name of ["frames", "width", "height"]) clip[name] = widgetValue(node, name);
        return Object.values(clip).every(isNumber) ? clip : undefined;
    }
    if (node.comfyClass === "LaVieInterpolationConditioning") return interpolated(conditioned(node));
    if (node.comfyClass === "LaVieSuperResolutionConditioning") return enlarged(conditioned(node));
    return PASSES_ON[node.comfyClass] && clipOf(source(node, PASSES_ON[node.comfyClass]));
}

/** The clip that comes into a conditioning node. */
export const conditioned = (node) => clipOf(source(node, "frames") ?? source(node, "latent"));

export const interpolated = (clip) => clip && { ...clip, frames: 4 * (clip.frames - 1) + 1 };

export const enlarged = (clip) => clip && { ...clip, width: 4 * clip.width, height: 4 * clip.height };

/** Frames per second that a video node behind `node` states for the clip at `node`, or undefined. */
export function rateBehind(node) {
    const ends = (next) => next !== node && next.comfyClass === "LaVieInterpolationConditioning"; // another rate then
    for (const next of behind(node, ends)) {
        if (ends(next)) continue;
        const rate = RATE_WIDGETS.map((name) => widgetValue(next, name)).find(isNumber);
        if (rate > 0) return rate;
    }
    return undefined;
}

/** The sampler that takes the clip at `node`, or undefined. */
export function samplerBehind(node) {
    const samples = (next) => next !== node && next.comfyClass in SAMPLES;
    for (const next of behind(node, samples)) if (samples(next)) return next;
    return undefined;
}

/** {length, count} of the windows in which `sampler` sees so many frames. `trained`: {window, overlap}. */
export function windowsOf(sampler, frames, trained) {
    let before = sampler;
    while (before && !WINDOW_WIDGETS[before.comfyClass]) before = source(before, "model") ?? source(before, "guider");
    if (!before) return { length: frames, count: 1 };
    const [length, overlap] = WINDOW_WIDGETS[before.comfyClass].map((name) => widgetValue(before, name));
    const size = length || trained.window;
    if (!isNumber(length) || frames <= size) return { length: frames, count: 1 };
    const step = Math.max(1, size - (overlap || trained.overlap));
    const loop = Boolean(widgetValue(before, "loop") ?? widgetValue(before, "closed_loop"));
    return { length: size, count: loop ? Math.ceil(frames / step) : Math.ceil((frames - size) / step) + 1 };
}

/** Steps that a sampler takes, as its widgets or those of its scheduler say; undefined where they do not. */
export function stepsOf(sampler) {
    const scheduler = source(sampler, "sigmas");
    const steps = widgetValue(sampler, "steps") ?? (scheduler && widgetValue(scheduler, "steps"));
    return isNumber(steps) ? steps : undefined;
}
