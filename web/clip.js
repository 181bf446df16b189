// What the graph tells about the clip at a node: its frames and size upstream, its rate downstream.

export const TRAINED_RATES = { base: 8, interpolation: 24, super_resolution: 8 }; // frames per second
const RATE_WIDGETS = ["fps", "frame_rate"];
// Nodes that pass a clip on with its count and size: the inputs in which it comes.
const PASSES_ON = {
    KSampler: "latent_image",
    KSamplerAdvanced: "latent_image",
    SamplerCustom: "latent_image",
    SamplerCustomAdvanced: "latent_image",
    VAEDecode: "samples",
    VAEDecodeTiled: "samples",
    VAEEncode: "pixels",
    VAEEncodeTiled: "pixels",
};

export const widgetValue = (node, name) => node.widgets?.find((widget) => widget.name === name)?.value;

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** The node with an execution id such as "7", or "12:3" for node 3 inside subgraph node 12; undefined for none. */
export function findNode(rootGraph, executionId) {
    let graph = rootGraph;
    let node;
    for (const part of String(executionId).split(":")) {
        node = graph?.getNodeById(Number(part));
        graph = node?.subgraph;
    }
    return node;
}

/** The node that is connected to an input of `node`, or undefined. */
function source(node, input) {
    const link = node.graph?.getLink(node.inputs?.find((slot) => slot.name === input)?.link);
    return link && node.graph.getNodeById(link.origin_id);
}

/** {frames, width, height} in pixels of the clip that `node` gives, or undefined where the graph does not tell. */
export function clipOf(node) {
    if (!node) return undefined;
    if (node.comfyClass === "EmptyLaVieLatent") {
        const clip = {};
        for (const name of ["frames", "width", "height"]) {
            if (node.inputs?.some((slot) => slot.name === name && slot.link != null)) return undefined;
            clip[name] = widgetValue(node, name);
        }
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
    const seen = new Set();
    const waiting = node ? [node] : [];
    while (waiting.length) {
        const next = waiting.shift();
        if (!next || seen.has(next.id)) continue;
        seen.add(next.id);
        if (next !== node && next.comfyClass === "LaVieInterpolationConditioning") continue; // another rate from here
        const rate = RATE_WIDGETS.map((name) => widgetValue(next, name)).find(isNumber);
        if (rate > 0) return rate;
        for (const output of next.outputs ?? []) {
            for (const id of output.links ?? []) {
                const link = next.graph?.getLink(id);
                if (link) waiting.push(next.graph.getNodeById(link.target_id));
            }
        }
    }
    return undefined;
}
