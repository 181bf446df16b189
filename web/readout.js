// Before anything runs: what will come out of a LaVie node, shown on it through ComfyUI's channel for texts on nodes.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { clipOf, conditioned, enlarged, interpolated, rateBehind, TRAINED_RATES } from "./clip.js";

// Peak of activations per frame and latent pixel of the published networks: measured in 32 bits, here in 16 bits and
// for prompt and negative prompt together, which need the same.
const BYTES_PER_LATENT_PIXEL = { base: 16700, interpolation: 16700, super_resolution: 21500 };
const PIXELS_PER_LATENT = { base: 8, interpolation: 8, super_resolution: 4 };
const DECODED_BYTES_PER_PIXEL = 12; // ComfyUI's images: three numbers of 32 bits

const READOUTS = {
    EmptyLaVieLatent: { stage: "base", given: () => undefined, made: clipOf },
    LaVieInterpolationConditioning: { stage: "interpolation", given: conditioned, made: interpolated },
    LaVieSuperResolutionConditioning: { stage: "super_resolution", given: conditioned, made: enlarged },
};

const round = (value, digits) => String(Number(value.toPrecision(digits)));

function bytes(count) {
    const units = ["bytes", "kB", "MB", "GB", "TB"];
    const unit = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, count)) / 3));
    return `${round(count / 1000 ** unit, 3)} ${units[unit]}`;
}

const fill = (template, values) => template.replace(/\{(\w+)\}/g, (_, name) => values[name]);

/** The text for a node, or undefined for nodes without one. `memory`: bytes of the device. */
export function readout(node, texts, memory) {
    const kind = READOUTS[node.comfyClass];
    if (!kind) return undefined;
    const { stage } = kind;
    const given = kind.given(node);
    const made = stage === "base" ? kind.made(node) : kind.made(given);
    if (!made) return texts[`${stage}_unknown`];
    const rate = rateBehind(node) ?? TRAINED_RATES[stage];
    const pixels = made.frames * made.width * made.height;
    const sampling = (BYTES_PER_LATENT_PIXEL[stage] * pixels) / PIXELS_PER_LATENT[stage] ** 2;
    const values = {
        given_frames: given?.frames,
        given_size: given && `${given.width} x ${given.height}`,
        frames: made.frames,
        size: `${made.width} x ${made.height}`,
        seconds: round(made.frames / rate, 3),
        rate: round(rate, 4),
        decoded: bytes(pixels * DECODED_BYTES_PER_PIXEL),
        sampling: bytes(sampling),
        memory: bytes(memory),
    };
    const fits = sampling <= memory ? "fits" : "does_not_fit";
    return `${fill(texts[stage], values)}\n${fill(texts[fits], values)}`;
}

async function texts() {
    const all = await (await api.fetchApi("/i18n")).json();
    const language = app.extensionManager.setting.get("Comfy.Locale");
    return (all[language]?.lavie ?? all.en.lavie).readout;
}

async function deviceMemory() {
    const { devices, system } = await api.getSystemStats();
    const device = devices[0];
    return device && device.type !== "cpu" ? device.vram_total : system.ram_total;
}

/** Show read-outs from now on, each again when a change of the graph changes it. Returns what shows them now. */
export async function showReadouts() {
    const [words, memory] = await Promise.all([texts(), deviceMemory()]);
    const shown = new WeakMap();
    const show = () => {
        for (const node of app.canvas.graph?.nodes ?? []) {
            const text = readout(node, words, memory);
            if (!text || shown.get(node) === text) continue;
            shown.set(node, text);
            api.dispatchCustomEvent("progress_text", { nodeId: String(node.id), text });
        }
    };
    api.addEventListener("graphChanged", show);
    show();
    return show;
}
