// The pack's extension of ComfyUI's page: moving previews, read-outs on nodes, settings.

import { app } from "../../scripts/app.js";
import { playPreviews } from "./preview.js";
import { showReadouts } from "./readout.js";

const PREVIEW = "LaVie.Preview";
const setting = (name) => app.extensionManager.setting.get(`${PREVIEW}.${name}`);

let settingsChanged = () => {};
let graphLoaded = () => {};
const onChange = () => settingsChanged();

app.registerExtension({
    name: "LaVie",
    settings: [
        {
            id: `${PREVIEW}.Enabled`,
            category: ["LaVie", "Preview", "Enabled"],
            sortOrder: 3,
            name: "Play the clip while it is sampled",
            tooltip: "All frames, in the sampler's node. Costs at most 2 % of the time of sampling.",
            type: "boolean",
            defaultValue: true,
            onChange,
        },
        {
            id: `${PREVIEW}.Rate`,
            category: ["LaVie", "Preview", "Rate"],
            sortOrder: 2,
            name: "Frames per second",
            tooltip: "0: the rate of the video node behind the sampler, else the model's own.",
            type: "slider",
            attrs: { min: 0, max: 60, step: 1 },
            defaultValue: 0,
        },
        {
            id: `${PREVIEW}.Size`,
            category: ["LaVie", "Preview", "Size"],
            sortOrder: 1,
            name: "Size in pixels",
            tooltip: "Of a frame's longer edge.",
            type: "slider",
            attrs: { min: 64, max: 1024, step: 64 },
            defaultValue: 256,
            onChange,
        },
    ],
    async setup() {
        settingsChanged = playPreviews({
            enabled: () => setting("Enabled"),
            rate: () => setting("Rate"),
            size: () => setting("Size"),
        });
        graphLoaded = await showReadouts();
    },
    afterConfigureGraph() {
        graphLoaded();
    },
});
