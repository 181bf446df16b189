"""Step for large frames: super-resolution sees overlapping tiles, as core's areas of conditions."""

from __future__ import annotations

import math
from typing import NamedTuple

import node_helpers
from comfy_api.latest import io

import nodes

from ..lavie_models.comfyui.model import LOW_RESOLUTION
from .inputs import checked
from .notices import tell

GRID = 8  # the network halves three times; tiles that begin on this grid see what the whole frame sees there
LEAST_SHARED = 16  # core fades an area over 8 pixels at each edge
LEAST_TILE = 64
PUBLISHED_WIDTH, PUBLISHED_HEIGHT = 512, 320  # of the frames that the published cascade upscales


class Area(NamedTuple):
    """A tile as core's conditions name an area, pixels of the small frames."""

    height: int
    width: int
    y: int
    x: int


def starts(size: int, tile: int, shared: int) -> list[int]:
    """Where tiles along an edge of `size` pixels begin: evenly, and neighbours share `shared` pixels at least."""
    if size <= tile + GRID // 2:
        return [0]
    count = math.ceil((size - shared) / (tile - shared))
    while True:
        found = [round(i * (size - tile) / (count - 1) / GRID) * GRID for i in range(count)]
        if all(after - before <= tile - shared for before, after in zip(found, found[1:], strict=False)):
            return found
        count += 1  # rounding took too much of what is shared


def areas(height: int, width: int, tile_height: int, tile_width: int, overlap: int) -> list[Area]:
    """The tiles of a frame, row by row; those at its end reach to the edge, which makes them up to 4 pixels larger."""
    rows, columns = starts(height, tile_height, overlap), starts(width, tile_width, overlap)
    return [Area(min(tile_height, height - y) if y != rows[-1] else height - y,
                 min(tile_width, width - x) if x != columns[-1] else width - x, y, x)
            for y in rows for x in columns]  # fmt: skip


class LaVieTiles(io.ComfyNode):
    """Conditioning of super-resolution -> the same, once for each tile."""

    @classmethod
    def define_schema(cls):
        side = {"min": LEAST_TILE, "max": nodes.MAX_RESOLUTION, "step": GRID}
        return io.Schema(
            node_id="LaVieTiles",
            display_name="LaVie Tiles",
            category="LaVie",
            description="Lets super-resolution make frames larger than your card could hold at once: it sees "
            "overlapping tiles, whose results are blended at every step. Memory depends on the tile, not on the frame. "
            "Core's Conditioning (Set Area), once for each tile.",
            search_aliases=["lavie", "tiled upscale", "tiled diffusion", "multidiffusion", "4k", "8k"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="From LaVie Super-Resolution Conditioning."),
                io.Conditioning.Input("negative", tooltip="From there, too."),
                io.Int.Input(
                    "tile_width", default=PUBLISHED_WIDTH, **side,
                    tooltip="Pixels of the frames that come in; what comes out is four times it. Frames that fit into "
                    "one tile are sampled as before.",
                ),
                io.Int.Input(
                    "tile_height", default=PUBLISHED_HEIGHT, **side,
                    tooltip="Pixels of the frames that come in. A smaller tile takes less memory and sees less of the "
                    "picture.",
                ),
                io.Int.Input(
                    "overlap", default=64, min=LEAST_SHARED, max=nodes.MAX_RESOLUTION, step=GRID,
                    tooltip="Pixels that neighbouring tiles share at least. A larger overlap hides seams better and "
                    "takes longer.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="Once for each tile."),
                io.Conditioning.Output(display_name="negative", tooltip="The same tiles."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, positive, negative, tile_width, tile_height, overlap) -> io.NodeOutput:
        if overlap > min(tile_width, tile_height) // 2:
            raise ValueError(
                f"overlap must be at most half a tile, {min(tile_width, tile_height) // 2} pixels, got {overlap}; use "
                "a smaller overlap or larger tiles"
            )
        height, width = size_of(positive, negative)
        tiles = areas(height, width, tile_height, tile_width, overlap)
        tell(cls, f"{width} x {height} pixels: {len(tiles)} tile{'s' if len(tiles) > 1 else ''}")
        if len(tiles) == 1:
            return io.NodeOutput(positive, negative)
        return io.NodeOutput(*([entry for tile in tiles for entry in in_area(c, tile)] for c in (positive, negative)))


def size_of(*conditionings) -> tuple[int, int]:
    """(height, width) of the frames that conditionings of super-resolution hold. Raises ValueError."""
    entries = [values for conditioning in conditionings for _, values in conditioning]
    if not entries or any(LOW_RESOLUTION not in values for values in entries):
        raise ValueError(
            "LaVie Tiles needs what LaVie Super-Resolution Conditioning gives; put it behind that node. The other "
            "stages would draw the whole prompt into every tile"
        )
    for name, node in (("area", "Conditioning (Set Area)"), ("mask", "Conditioning (Set Mask)")):
        if any(name in values for values in entries):
            raise ValueError(f"tiles are areas themselves, and these prompts have {node} before them; take that out")
    sizes = {tuple(values[LOW_RESOLUTION].shape[2:]) for values in entries}
    if len(sizes) > 1:
        raise ValueError(f"positive and negative are for frames of different sizes: {sorted(sizes)} (height, width)")
    return sizes.pop()


def in_area(conditioning, tile: Area) -> list:
    """A conditioning for one tile, of which core takes its part of the frames."""
    return node_helpers.conditioning_set_values(conditioning, {"area": tuple(tile), "strength": 1.0})
