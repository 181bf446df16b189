"""What a node says while it runs: on the node in the browser and in the log."""

from __future__ import annotations

import html
import logging

from server import PromptServer

BYTE_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def tell(node, text: str) -> None:
    """Show ``text`` on the node (a ComfyNode class whose schema asks for its unique_id) and log it.

    The browser shows notices as HTML, so names of files and the like are escaped.
    """
    logging.info("%s: %s", node.define_schema().display_name, text)
    server, node_id = getattr(PromptServer, "instance", None), node.hidden and node.hidden.unique_id
    if server is not None and node_id is not None:
        server.send_progress_text(html.escape(text, quote=False), node_id)


def readable_bytes(count: float) -> str:
    """A size in decimal units, such as "1.9 GB"."""
    unit = 0
    while count >= 1000 and unit < len(BYTE_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.3g} {BYTE_UNITS[unit]}"
