"""Pictures of this pack's nodes for its help pages: `python -P -m comfyui_lavie.tools.node_pictures [node ...]`.

Contract: a real browser shows each node as ComfyUI draws it, with its default values, and `web/docs/<node>.png` is what
is seen, with a note of what the node had then. Without arguments only nodes that have no picture yet are photographed.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..comfyui_api.server import ComfyUIServer
from ..place import ROOT, find_comfyui
from .browser import open_browser
from .texts import DOCS, DRAWN, drawn, pack_nodes

MARGIN = 26  # pixels around the node, which the name of its pack needs
COLORS = 64  # of the picture's palette

# The node alone in an empty graph, in the middle; returns its rectangle on the page. Values of widgets are kept by the
# node's number, also when the graph is emptied: each node has its own.
SHOW = """async (type) => {
    app.graph.clear();
    const node = LiteGraph.createNode(type);
    node.id = window.photographed = (window.photographed ?? 0) + 1;
    node.pos = [100, 100];
    app.graph.add(node);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [200, 100];
    app.extensionManager.workflow.activeWorkflow.changeTracker.checkState();
    await new Promise((resolve) => setTimeout(resolve, 700));
    const [least, height] = node.computeSize();
    const isToldMore = node.widgets?.some((widget) => widget.name.includes('text-preview'));
    node.setSize([Math.max(least, 340), height + (isToldMore ? 16 : 0)]);
    app.canvas.setDirty(true, true);
    await new Promise((resolve) => setTimeout(resolve, 500));
    const [x, y, width, whole] = node.getBounding();
    const box = app.canvas.canvas.getBoundingClientRect();
    return { x: box.x + x + 200, y: box.y + y + 100, width, height: whole };
}"""


def photograph(page, node: str, shows: str) -> bytes:
    """A PNG of the node with few colours, and with what it shows as text."""
    rectangle = page.evaluate(SHOW, node)
    clip = {key: value + MARGIN * (-1 if key in "xy" else 2) for key, value in rectangle.items()}
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB").quantize(COLORS)
    file = io.BytesIO()
    note = PngInfo()
    note.add_text(DRAWN, shows)
    picture.save(file, "PNG", optimize=True, pnginfo=note)
    return file.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("nodes", nargs="*", help="node ids; default: those without a picture")
    chosen = parser.parse_args().nodes
    base = ROOT / "runs" / "node_pictures"
    base.mkdir(parents=True, exist_ok=True)
    with ComfyUIServer(find_comfyui(), base) as server, tempfile.TemporaryDirectory() as folder:
        known = pack_nodes(server.object_info())
        nodes = chosen or [name for name in known if not (DOCS / f"{name}.png").exists()]
        with open_browser(server.url, Path(folder)) as page:
            for name in nodes:
                (DOCS / f"{name}.png").write_bytes(photograph(page, name, drawn(known[name])))
                print(DOCS / f"{name}.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
