// The published networks in numbers, from the server: {stage: {rate, window, bytes_per_pixel}} (nodes/readout.py).

import { api } from "../../scripts/api.js";

export const STAGES = await (await api.fetchApi("/lavie/stages")).json();
