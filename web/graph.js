// ComfyUI's graph as its nodes see it: what is linked to what, through the borders of subgraphs.

const INPUTS = -10; // ids of the two boxes inside a subgraph that stand for its inputs and outputs
const OUTPUTS = -20;

/** The graph's own nodes and those inside its subgraphs, without the instances of these. */
export function* allNodes(graph) {
    for (const node of graph?.nodes ?? []) {
        if (node.subgraph) yield* allNodes(node.subgraph);
        else yield node;
    }
}

/** The node that stands for the subgraph `graph`; undefined for the outermost graph. */
function instanceOf(graph) {
    if (!graph || graph.rootGraph === graph) return undefined;
    const search = (nodes) => {
        for (const node of nodes ?? []) {
            const found = node.subgraph === graph ? node : node.subgraph && search(node.subgraph.nodes);
            if (found) return found;
        }
        return undefined;
    };
    return search(graph.rootGraph?.nodes);
}

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

/** The execution id of a node: the other way round. */
export function executionId(node) {
    const instance = instanceOf(node.graph);
    return instance ? `${executionId(instance)}:${node.id}` : String(node.id);
}

/** The node that is connected to an input slot, or undefined. */
function origin(node, slot) {
    const link = node.graph?.getLink(slot?.link);
    if (!link) return undefined;
    if (Number(link.origin_id) === INPUTS) {
        const instance = instanceOf(node.graph);
        return instance && origin(instance, instance.inputs[link.origin_slot]);
    }
    let found = node.graph.getNodeById(link.origin_id);
    let output = link.origin_slot;
    while (found?.subgraph) {
        const inner = found.subgraph.getLink(found.subgraph.outputs[output]?.linkIds[0]);
        if (!inner) return undefined;
        [found, output] = [found.subgraph.getNodeById(inner.origin_id), inner.origin_slot];
    }
    return found;
}

const slotOf = (node, name) => node.inputs?.find((slot) => slot.name === name);

/** The node that is connected to an input of `node`, or undefined. */
export const source = (node, input) => origin(node, slotOf(node, input));

/** What a widget says, on the face of a subgraph where it is shown there; undefined where another node gives it. */
export function widgetValue(node, name) {
    const slot = node && slotOf(node, name);
    const link = node?.graph?.getLink(slot?.link);
    if (link && Number(link.origin_id) === INPUTS) {
        const instance = instanceOf(node.graph);
        return instance && widgetValue(instance, instance.inputs[link.origin_slot].name);
    }
    return link ? undefined : node?.widgets?.find((widget) => widget.name === name)?.value;
}

function* targets(graph, ids) {
    for (const id of ids ?? []) {
        const link = graph?.getLink(id);
        if (!link) continue;
        if (Number(link.target_id) === OUTPUTS) {
            const instance = instanceOf(graph);
            yield* targets(instance?.graph, instance?.outputs[link.target_slot]?.links);
            continue;
        }
        const node = graph.getNodeById(link.target_id);
        if (node?.subgraph) yield* targets(node.subgraph, node.subgraph.inputs[link.target_slot]?.linkIds);
        else if (node) yield node;
    }
}

/** Where a text about `node` can be shown: on itself, or for a subgraph, whose face has no room, on what follows it. */
export function bearer(node) {
    if (!node.subgraph) return node;
    const links = node.outputs.flatMap((output) => output.links ?? []).map((id) => node.graph.getLink(id));
    return links.map((link) => node.graph.getNodeById(link?.target_id)).find((next) => next && !next.subgraph);
}

/** `node` and all nodes behind it, nearest first; behind a node for which `ends` is true no further. */
export function* behind(node, ends) {
    const seen = new Set();
    const waiting = node ? [node] : [];
    while (waiting.length) {
        const next = waiting.shift();
        if (seen.has(next)) continue;
        seen.add(next);
        yield next;
        if (ends(next)) continue;
        for (const output of next.outputs ?? []) waiting.push(...targets(next.graph, output.links));
    }
}
