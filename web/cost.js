// What sampling costs: frames and pixels that a sampler works through, and the seconds that such work took here.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { clipOf, conditioned, enlarged, interpolated, samplerBehind, stepsOf, windowsOf } from "./clip.js";
import { allNodes, executionId, source, widgetValue } from "./graph.js";
import { STAGES } from "./stages.js";

const KINDS = {
    EmptyLaVieLatent: { stage: "base", given: () => undefined, made: clipOf },
    LaVieInterpolationConditioning: { stage: "interpolation", given: conditioned, made: interpolated },
    LaVieSuperResolutionConditioning: { stage: "super_resolution", given: conditioned, made: enlarged },
};
const STORED = "LaVie.SecondsOfWork"; // in the browser: {model file: seconds of a step, per frame and pixel}

/** What a node begins, or undefined: {stage, given, made} as clips, and of its sampler the windows, steps and work. */
export function stageAt(node) {
    const kind = KINDS[node.comfyClass];
    if (!kind) return undefined;
    const given = kind.given(node);
    const made = kind.made(kind.stage === "base" ? node : given);
    const sampler = samplerBehind(node);
    const about = { stage: kind.stage, given, made, sampler };
    if (!made) return about;
    const windows = sampler ? windowsOf(sampler, made.frames, STAGES[kind.stage]) : { length: made.frames, count: 1 };
    const work = windows.count * windows.length * made.width * made.height;
    return { ...about, windows, work, steps: sampler && stepsOf(sampler), model: sampler && modelOf(sampler) };
}

/** The file whose network a sampler uses. */
function modelOf(sampler) {
    let before = sampler;
    while (before && !before.comfyClass?.endsWith("ModelLoader")) {
        before = source(before, "model") ?? source(before, "guider");
    }
    return before && widgetValue(before, "model_name");
}

const secondsOfWork = JSON.parse(localStorage.getItem(STORED) ?? "{}");

/** Seconds of a step of a stage as in `stageAt`; undefined until one of that model was timed. */
export const secondsOfStep = ({ model, work }) => secondsOfWork[model] && secondsOfWork[model] * work;

/** Stages of the whole graph, by the execution ids of their samplers. */
export function plannedStages() {
    const found = new Map();
    for (const node of allNodes(app.rootGraph ?? app.graph)) {
        const stage = stageAt(node);
        if (stage?.sampler && stage.steps) found.set(executionId(stage.sampler), stage);
    }
    return found;
}

/** Time the steps of samplers while they run; `changed` is called with {execution id: steps done} after each. */
export function timeSteps(changed) {
    let planned = new Map();
    let began = new Map();
    let done = {};
    api.addEventListener("execution_start", () => {
        planned = plannedStages();
        began = new Map();
        done = {};
    });
    api.addEventListener("execution_cached", ({ detail }) => {
        for (const id of detail.nodes) if (planned.has(id)) done[id] = planned.get(id).steps;
    });
    api.addEventListener("progress_state", ({ detail }) => {
        for (const [id, { value, max }] of Object.entries(detail.nodes)) {
            if (!planned.has(id) || max <= 1 || done[id] === value) continue;
            done[id] = value;
            if (!began.has(id)) began.set(id, { value, time: performance.now() }); // loading was before it
            const { value: first, time } = began.get(id);
            const { model, work } = planned.get(id);
            if (model && value > first) {
                secondsOfWork[model] = (performance.now() - time) / 1000 / (value - first) / work;
                localStorage.setItem(STORED, JSON.stringify(secondsOfWork));
            }
        }
        changed(planned, done);
    });
}
