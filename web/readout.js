// What will come out of LaVie's nodes and what it costs, told before anything runs, and how far a run is; shown on the
// nodes, or behind subgraphs that hold them, through ComfyUI's channel for texts on nodes.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { rateBehind } from "./clip.js";
import { secondsOfStep, stageAt, timeSteps } from "./cost.js";
import { allNodes, bearer, widgetValue } from "./graph.js";
import { STAGES } from "./stages.js";

const ENDINGS = ["execution_success", "execution_error", "execution_interrupted"];

const round = (value, digits) => String(Number(value.toPrecision(digits)));

function bytes(count) {
    const units = ["bytes", "kB", "MB", "GB", "TB"];
    const unit = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, count)) / 3));
    return `${round(count / 1000 ** unit, 3)} ${units[unit]}`;
}

const fill = (template, values) => template.replace(/\{(\w+)\}/g, (_, name) => values[name]);

function duration(seconds, texts) {
    if (seconds < 100) return fill(texts.seconds, { seconds: round(seconds, 2) });
    return fill(texts.minutes, { minutes: round(seconds / 60, 2) });
}

/** The text for a node that begins a stage, or undefined for others. `memory`: {free, all} bytes of the device. */
export function readout(node, texts, memory) {
    const about = stageAt(node);
    if (!about) return undefined;
    const { stage, given, made, windows, steps } = about;
    if (!made) return texts[`${stage}_unknown`];
    const { rate: trainedRate, window, precision, bytes_per_pixel } = STAGES[stage];
    const rate = rateBehind(node) ?? trainedRate;
    const pixels = made.width * made.height;
    const sampling = bytes_per_pixel * windows.length * pixels;
    const step = secondsOfStep(about);
    const values = {
        given_frames: given?.frames,
        given_size: given && `${given.width} x ${given.height}`,
        frames: made.frames,
        size: `${made.width} x ${made.height}`,
        seconds: round(made.frames / rate, 3),
        rate: round(rate, 4),
        sampling: bytes(sampling),
        precision,
        windows: windows.count,
        window: windows.length,
        free: bytes(memory.free),
        memory: bytes(memory.all),
        steps,
        step: step && duration(step, texts),
        time: step && steps && duration(step * steps, texts),
    };
    const tooLarge = windows.length > window ? "needs_windows" : "needs_smaller_frames";
    const lines = [stage, windows.count > 1 && "in_windows", sampling <= memory.all ? "fits" : tooLarge];
    if (values.time) lines.push("takes");
    return lines.filter(Boolean).map((line) => fill(texts[line], values)).join("\n");
}

/** What the server makes of a schedule of prompts, or what is wrong with it. `wish`: JSON that the route takes. */
async function schedule(wish, texts) {
    const answer = await api.fetchApi("/lavie/schedule", { method: "POST", body: wish });
    if (!answer.ok) return answer.text();
    const range = ({ first, last }) => (first === last ? `${first}` : `${first} - ${last}`);
    return (await answer.json()).map((span) => `${range(span)}: ${span.prompt ?? texts.blend}`).join("\n");
}

async function words() {
    const all = await (await api.fetchApi("/i18n")).json();
    const language = app.extensionManager.setting.get("Comfy.Locale");
    return (all[language]?.lavie ?? all.en.lavie).readout;
}

async function deviceMemory() {
    const { devices, system } = await api.getSystemStats();
    const device = devices[0];
    if (!device || device.type === "cpu") return { free: system.ram_free, all: system.ram_total };
    return { free: device.vram_free, all: device.vram_total };
}

/** How far a run is over all its stages, and the time left as far as steps were timed. */
function progress(planned, done, texts) {
    const timed = [...planned.values()].every((stage) => secondsOfStep(stage) !== undefined);
    let [whole, finished] = [0, 0]; // in seconds, or in work as long as some stage was not timed
    for (const [id, stage] of planned) {
        const cost = timed ? secondsOfStep(stage) : stage.work;
        whole += cost * stage.steps;
        finished += cost * Math.min(done[id] ?? 0, stage.steps);
    }
    const percent = Math.floor((100 * finished) / whole);
    return fill(texts[timed ? "progress" : "progress_untimed"], { percent, left: duration(whole - finished, texts) });
}

/** Show read-outs from now on, each again when something changes it. Returns what shows them now. */
export async function showReadouts() {
    let [texts, memory] = await Promise.all([words(), deviceMemory()]);
    let far = ""; // how far the run is
    const shown = new WeakMap();
    const asked = new WeakMap(); // schedules, of which the server is asked when they change, not at every step of a run
    const put = (node, text) => {
        if (!node || !text || shown.get(node) === text) return;
        shown.set(node, text);
        api.dispatchCustomEvent("progress_text", { nodeId: String(node.id), text });
    };
    const showSchedule = async (node) => {
        const wish = JSON.stringify({ schedule: widgetValue(node, "schedule"), frames: widgetValue(node, "frames") });
        if (asked.get(node) === wish) return;
        asked.set(node, wish);
        const text = await schedule(wish, texts);
        if (asked.get(node) === wish) put(node, text);
    };
    const show = () => {
        for (const node of app.canvas.graph?.nodes ?? []) {
            if (node.comfyClass === "LaVieFramePrompts") showSchedule(node);
            const parts = node.subgraph ? [...allNodes(node.subgraph)] : [node];
            const about = parts.map((part) => readout(part, texts, memory)).filter(Boolean);
            if (about.length) put(bearer(node), [far, ...about].filter(Boolean).join("\n"));
        }
    };
    timeSteps((planned, done) => {
        if (planned.size) far = progress(planned, done, texts);
        show();
    });
    for (const ending of ENDINGS) {
        api.addEventListener(ending, async () => {
            far = "";
            memory = await deviceMemory();
            show();
        });
    }
    api.addEventListener("graphChanged", show);
    show();
    return show;
}
