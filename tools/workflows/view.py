"""How a workflow is seen when it opens: the zoom that ComfyUI's page chooses, and a note placed so that it is largest.

Contract: boxes are [x, y, width, height] in the graph's own pixels. The page fits a template's nodes into its window;
a file that is opened otherwise it shows as `whole_view` says.
"""

from __future__ import annotations

WINDOW = (1440, 900)  # pixels of a usual window
BARS, EDGE = (70, 95), 10  # pixels of the browser's own bars at its left and its top, and at the other edges
FILLED, PADDING = 0.75, 10  # share of the window that the page gives to a template's nodes, pixels around them
GAP, TITLE_HEIGHT = 60, 30  # pixels between nodes, of a node's title above its position
LEAST_NOTE = 330  # pixels across
CHARACTER, TEXT_LINE = 7, 11  # pixels that a note's text takes, blank lines among it

Box = list[int]


def note_size(text: str, width: int) -> Box:
    """[width, height] of a note, pixels."""
    rows = sum(1 + len(line) // (width // CHARACTER) for line in text.splitlines())
    return [width, 60 + rows * TEXT_LINE]


def node_box(node: dict) -> Box:
    """A node with its title."""
    (x, y), (width, height) = node["pos"], node["size"]
    return [x, y - TITLE_HEIGHT, width, height + TITLE_HEIGHT]


def around(boxes: list[Box]) -> Box:
    """The smallest box that holds all."""
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(map(bottom_of, boxes))
    return [left, top, right - left, bottom - top]


def bottom_of(box: Box) -> int:
    return box[1] + box[3]


def opening_zoom(nodes: list[dict]) -> float:
    """The zoom at which the page shows a template."""
    _, _, width, height = around([node_box(node) for node in nodes])
    return FILLED * min(WINDOW[0] / (width + 2 * PADDING), WINDOW[1] / (height + 2 * PADDING))


def place_note(note: dict, nodes: list[dict], groups: list[dict]) -> None:
    """Put a note below some of the first columns, as many as let the whole be seen largest.

    It stands in the group if there is one, which grows with it, else below the groups.
    """
    lefts = sorted({node["pos"][0] for node in nodes})
    below = [node_box(node) for node in nodes] if len(groups) == 1 else [group["bounding"] for group in groups]
    places = []
    for left in lefts:
        columns = [node for node in nodes if node["pos"][0] <= left]
        width = max(node["pos"][0] + node["size"][0] for node in columns) - lefts[0]
        if width >= LEAST_NOTE:
            top = max(bottom_of(box) for box in below if box[0] <= left) + GAP
            place = {"pos": [lefts[0], top], "size": note_size(note["widgets_values"][0], width)}
            places.append((opening_zoom([*nodes, {**note, **place}]), place))
    note.update(max(places, key=lambda rated: rated[0])[1])
    if len(groups) == 1:
        bounding, margin = groups[0]["bounding"], lefts[0] - groups[0]["bounding"][0]
        bounding[3] = max(bounding[3], note["pos"][1] + note["size"][1] + margin - bounding[1])


def whole_view(groups: list[dict]) -> dict:
    """Zoom and offset at which all groups are seen beside and below the browser's bars."""
    left, top, width, height = around([group["bounding"] for group in groups])
    free = [whole - bar - EDGE for whole, bar in zip(WINDOW, BARS, strict=True)]
    scale = min(1.0, free[0] / width, free[1] / height)
    return {"scale": round(scale, 3), "offset": [round(BARS[0] / scale) - left, round(BARS[1] / scale) - top]}
