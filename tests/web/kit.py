"""What the tests of the page share: templates opened, runs started, what nodes show."""

from __future__ import annotations

from pathlib import Path

from comfyui_lavie.tools.workflows.templates import START
from playwright.sync_api import TimeoutError

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "runs" / "browser"

# As the page does when a template is clicked, without the browser of some hundred templates before it.
OPEN = """async (name) => {
    const answer = await fetch(`/api/workflow_templates/lavie/${encodeURIComponent(name)}.json`);
    await app.loadGraphData(await answer.json(), true, true, name, { openSource: 'template' });
}"""
# Every picture that the sampler's node has shown, drawn small, as text: {picture: how often seen}.
WATCH_SAMPLER = """() => {
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 16;
    const context = canvas.getContext('2d', { willReadFrequently: true });
    window.shown = {};
    window.watch = setInterval(() => {
        const image = window.app.graph.nodes.find((node) => node.type === 'KSampler').imgs?.[0];
        if (!image?.complete) return;
        context.drawImage(image, 0, 0, 16, 16);
        const text = context.getImageData(0, 0, 16, 16).data.join();
        window.shown[text] = (window.shown[text] ?? 0) + 1;
    }, 30);
}"""
FIND = """app.canvas.graph.nodes.find((node) =>
    [node.type, node.title, node.widgets?.find((widget) => widget.name === 'filename_prefix')?.value].includes(kind))"""
PLAY = """(video) => {
    video.muted = true;
    if (video.paused) video.play().catch(() => {});
    return video.currentTime > 0.3;
}"""
PLAY_TRIES = 300
READOUT = "node.widgets?.find((widget) => widget.name.includes('text-preview'))?.value ?? ''"


def picture(page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")


def close_dialogs(page) -> None:
    """Press Escape until nothing lies over the graph."""
    for _ in range(3):
        if not page.locator("[role=dialog]").count():
            return
        page.keyboard.press("Escape")
        page.wait_for_timeout(300)


def setting(page, name: str):
    return page.evaluate("(name) => window.app.extensionManager.setting.get(name)", name)


def open_template(page, name: str = START) -> None:
    close_dialogs(page)
    page.evaluate(OPEN, name)
    page.wait_for_function("() => window.app.graph.nodes.length > 3")


def subgraphs(page) -> list[str]:
    return page.evaluate("() => [...app.rootGraph.subgraphs.keys()]")


def node(page, kind: str, expression: str):
    """A JavaScript expression of `node`, the only one of a kind, a title or a file name in the graph that is shown."""
    return page.evaluate(f"(kind) => {{ const node = {FIND}; return {expression}; }}", kind)


def run(page, **inputs) -> None:
    """Set widgets of the sampler and click Run."""
    for name, value in inputs.items():
        node(page, "KSampler", f"node.widgets.find((widget) => widget.name === '{name}').value = {value}")
    page.get_by_test_id("queue-button").click()


def finished_video(page):
    """The video in the Save Video node, once the run has ended. It must be in view: nodes out of view load nothing.

    Known by its file's name: a node shows what one of its number showed in the graph before, until it has run.
    """
    node(page, "SaveVideo", "app.canvas.centerOnNode(node)")
    prefix = node(page, "SaveVideo", "node.widgets.find((widget) => widget.name === 'filename_prefix').value")
    named = f'[src*="{prefix.rpartition("/")[2]}_0"]'
    video = page.locator(f"video{named}, video:has(source{named})").first
    try:
        video.wait_for(state="attached")
    except TimeoutError as error:
        state = node(page, "SaveVideo", "JSON.stringify([app.nodeOutputs, node.imgs?.length, node.isLoading])")
        queue = page.evaluate("() => fetch('/api/queue').then((answer) => answer.text())")
        picture(page, "no_video")
        raise AssertionError(f"no video; outputs: {state}; queue: {queue[:500]}") from error
    return video


def play(page, video) -> None:
    """Play a video until it has moved on; a node may put another element in the place of the one that was started."""
    for _ in range(PLAY_TRIES):
        if video.evaluate(PLAY):
            return
        page.wait_for_timeout(200)
    state = video.evaluate("(video) => [video.paused, video.readyState, video.currentTime, video.error?.message]")
    raise AssertionError(f"the video stands still: {state}")


def readout(page, kind: str) -> str:
    return node(page, kind, READOUT)


def wait_for_readout(page, kind: str, part: str) -> str:
    """Until a node's read-out has this in it; all of it. ComfyUI looks for changes at every click; here it is told."""
    try:
        page.wait_for_function(
            f"""([kind, part]) => {{
                app.extensionManager.workflow.activeWorkflow.changeTracker.checkState();
                const node = {FIND};
                return ({READOUT}).includes(part);
            }}""",
            arg=[kind, part],
            polling=100,
        )
    except TimeoutError as error:
        raise AssertionError(f"expected {part!r}, shown is {readout(page, kind)!r}") from error
    return readout(page, kind)
