// Plays the clip in the sampler's node while it is being sampled, through ComfyUI's own channel for previews.
//
// The server sends all frames as one sheet. Here each frame in its turn becomes an ordinary preview image event, as if
// the server had sent that picture; ComfyUI shows it where it shows previews: nodes old and new, subgraphs, queue.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { rateBehind } from "./clip.js";
import { findNode } from "./graph.js";
import { STAGES } from "./stages.js";

const MESSAGE = "lavie_preview";
const KEY_MESSAGE = "lavie_preview_key";
const CHANNEL = "b_preview_with_metadata";
const ENDINGS = ["execution_start", "execution_success", "execution_error", "execution_interrupted"];

/** One clip in one node. A new message replaces the frames; the animation goes on from where it was. */
class Player {
    constructor(settings) {
        this.settings = settings;
        this.began = performance.now();
    }

    async show(message) {
        const sheet = await (await fetch(`data:image/jpeg;base64,${message.image}`)).blob();
        this.sheet = await createImageBitmap(sheet);
        this.message = message;
        if (!this.timer && !this.stopped) this.tick();
    }

    stop() {
        this.stopped = true;
        clearTimeout(this.timer);
    }

    /** Frames of the message per second. */
    rate() {
        const { node, stage, stride } = this.message;
        const clip = rateBehind(findNode(app.rootGraph ?? app.graph, node)) ?? STAGES[stage].rate;
        return (this.settings.rate() || clip) / stride;
    }

    async tick() {
        const rate = this.rate();
        this.timer = setTimeout(() => this.tick(), 1000 / rate);
        const index = Math.floor(((performance.now() - this.began) / 1000) * rate) % this.message.frames;
        const { node, prompt_id } = this.message;
        const blob = await this.frame(index);
        if (this.stopped) return;
        const ids = { nodeId: node, displayNodeId: node, parentNodeId: null, realNodeId: node, jobId: prompt_id };
        api.dispatchCustomEvent(CHANNEL, { blob, ...ids, lavie: index });
    }

    /** The picture of one frame, as large as the setting says. */
    frame(index) {
        const { columns, frames, width, height } = this.message;
        const scale = this.settings.size() / Math.max(width, height);
        const canvas = new OffscreenCanvas(Math.round(width * scale), Math.round(height * scale));
        const cell = [this.sheet.width / columns, this.sheet.height / Math.ceil(frames / columns)];
        const corner = [cell[0] * (index % columns), cell[1] * Math.floor(index / columns)];
        const context = canvas.getContext("2d");
        context.imageSmoothingQuality = "high";
        context.drawImage(this.sheet, ...corner, ...cell, 0, 0, canvas.width, canvas.height);
        return canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 });
    }
}

let key = null; // that the server sent to this browser alone; without it, it sends one

/** Tell the server whether this browser wants previews, and how large; 0 for none. */
async function register(size) {
    if (!api.clientId) return;
    const body = JSON.stringify({ client_id: api.clientId, size, key });
    const answer = await api.fetchApi("/lavie/preview", { method: "POST", body });
    if (!answer.ok) console.warn(`LaVie previews: ${await answer.text()}`);
}

/** Start listening. `settings`: {enabled(), rate(), size()}, read when they matter. Returns what to call on changes. */
export function playPreviews(settings) {
    const players = new Map(); // by node id
    const wish = () => (settings.enabled() ? settings.size() : 0);
    const stop = (keep) => {
        for (const [node, player] of players) {
            if (node === keep) continue;
            player.stop();
            players.delete(node);
        }
    };

    api.addEventListener(MESSAGE, ({ detail }) => {
        const node = String(detail.node);
        if (!settings.enabled()) return;
        if (!players.has(node)) players.set(node, new Player(settings));
        players.get(node).show(detail);
    });
    // ComfyUI's own still preview of the first frame would flicker into the animation; capture comes before it.
    const hideStill = (event) => {
        const { lavie, displayNodeId } = event.detail;
        if (lavie === undefined && players.has(String(displayNodeId))) event.stopImmediatePropagation();
    };
    api.addEventListener(CHANNEL, hideStill, { capture: true });
    api.addEventListener("executing", ({ detail }) => stop(String(detail)));
    for (const ending of ENDINGS) api.addEventListener(ending, () => stop());

    let registered;
    const changed = () => register(wish());
    api.addEventListener(KEY_MESSAGE, ({ detail }) => {
        key = detail.key;
        changed();
    });
    api.addEventListener("status", () => {
        if (api.clientId && api.clientId !== registered) {
            registered = api.clientId;
            changed();
        }
    });
    api.addEventListener("reconnected", changed); // the server may be a new one, which knows nobody
    changed();
    return () => {
        if (!settings.enabled()) stop();
        changed();
    };
}
