"""How things are drawn: stacks of layers of one paint each, made of convex polygons and ellipses, with soft edges.

Contract: `draw` paints a thing of LAYERS, or any such layers, into float frames. The primitives' signed distances give
both the silhouette and its one pixel wide anti-aliased edge.
"""

from __future__ import annotations

import numpy as np

LIGHT, DARK = (250, 250, 250), (24, 24, 24)  # small details: eyes, windows, wheels

# Drawings. A layer is (paint, primitives): the union of primitives filled with one paint. Coordinates are (u, v):
# forwards and downwards, where 1 is half of the thing's length. A primitive is ("ellipse", u, v, half_u, half_v) or a
# convex polygon, ("polygon", (u, v), ...), clockwise on the screen (v downwards).

LAYERS = {
    "fish": (
        ("body", (("ellipse", 0.27, 0.0, 0.73, 0.68),
                  ("polygon", (0.0, -0.1), (0.0, 0.15), (-1.0, 0.74), (-0.72, -0.1)),
                  ("polygon", (0.0, 0.1), (-0.72, 0.1), (-1.0, -0.74), (0.0, -0.15)))),
        ("light", (("ellipse", 0.56, -0.2, 0.2, 0.2),)),
        ("dark", (("ellipse", 0.61, -0.2, 0.1, 0.1),)),
    ),
    "rocket": (
        ("body", (("polygon", (-0.85, -0.34), (0.35, -0.34), (0.7, -0.22), (1.1, 0.0), (0.7, 0.22), (0.35, 0.34),
                   (-0.85, 0.34)),
                  ("polygon", (-1.1, -0.75), (-0.95, -0.75), (-0.4, -0.2), (-0.8, -0.2)),
                  ("polygon", (-0.8, 0.2), (-0.4, 0.2), (-0.95, 0.75), (-1.1, 0.75)))),
        ("light", (("ellipse", 0.3, 0.0, 0.17, 0.17),)),
    ),
    "car": (
        ("body", (("polygon", (-1.0, -0.1), (0.85, -0.1), (1.05, 0.1), (1.05, 0.45), (-1.0, 0.45)),
                  ("polygon", (-0.8, -0.6), (0.05, -0.6), (0.4, 0.0), (-0.95, 0.0)))),
        ("light", (("polygon", (-0.3, -0.45), (-0.02, -0.45), (0.2, -0.1), (-0.3, -0.1)),)),
        ("dark", (("ellipse", -0.55, 0.45, 0.27, 0.27), ("ellipse", 0.55, 0.45, 0.27, 0.27))),
        ("light", (("ellipse", -0.55, 0.45, 0.1, 0.1), ("ellipse", 0.55, 0.45, 0.1, 0.1))),
    ),
    "circle": (("body", (("ellipse", 0.0, 0.0, 0.92, 0.92),)),),
    "square": (("body", (("polygon", (-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)),)),),
    "triangle": (("body", (("polygon", (0.0, -1.05), (1.05, 0.85), (-1.05, 0.85)),)),),
}
PAINTS = ("body", "light", "dark")
_REACH = 1.35  # no drawing extends further than this from its origin


def draw(canvas, centers, radius, axes, layers, color) -> None:
    """Paint the layers into `canvas`, float (F, H, W, 3), in a window around each of `centers`, (F, 2) in pixels."""
    height, width = canvas.shape[1:3]
    half = int(np.ceil(radius * _REACH)) + 1
    origin = np.floor(centers).astype(int) - half  # (F, 2) top left corner of each window, may lie outside
    offset = np.arange(2 * half + 1, dtype=np.float32) + 0.5
    x = (origin[:, :1] + offset - centers[:, :1]).astype(np.float32)[:, None, :] / radius  # (F, 1, P)
    y = (origin[:, 1:] + offset - centers[:, 1:]).astype(np.float32)[:, :, None] / radius  # (F, P, 1)
    u, v = (np.float32(ax) * x + np.float32(ay) * y for ax, ay in axes)  # (F, P, P)
    paints = {"body": np.array(color, np.float32), "light": np.float32(LIGHT), "dark": np.float32(DARK)}
    covers = [(paints[paint], _coverage(primitives, u, v, radius)) for paint, primitives in layers]
    for f, (left, top) in enumerate(origin):
        x0, x1, y0, y1 = max(left, 0), min(left + len(offset), width), max(top, 0), min(top + len(offset), height)
        if x0 >= x1 or y0 >= y1:
            continue
        window = canvas[f, y0:y1, x0:x1]
        for paint, cover in covers:
            window += cover[f, y0 - top : y1 - top, x0 - left : x1 - left, None] * (paint - window)


def _coverage(primitives, u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """Fraction of each pixel inside the union of the primitives, float32 like u and v."""
    distance = None
    for kind, *shape in primitives:
        one = _ellipse(u, v, *shape) if kind == "ellipse" else _polygon(u, v, shape)
        distance = one if distance is None else np.minimum(distance, one)
    return np.clip(0.5 - distance * np.float32(radius), 0, 1)


def _ellipse(u, v, cu, cv, half_u, half_v) -> np.ndarray:
    """Signed distance to an ellipse, exact for circles, to first order elsewhere."""
    u, v = (u - np.float32(cu)) / np.float32(half_u), (v - np.float32(cv)) / np.float32(half_v)
    square = u * u + v * v
    if half_u == half_v:
        return (np.sqrt(square) - 1) * np.float32(half_u)
    gradient = np.sqrt((u / np.float32(half_u)) ** 2 + (v / np.float32(half_v)) ** 2)
    return (square - np.sqrt(square)) / np.maximum(gradient, 1e-6)


def _polygon(u, v, corners) -> np.ndarray:
    """Signed distance to a convex polygon (its largest half-plane distance)."""
    distance = None
    for (u0, v0), (u1, v1) in zip(corners, (*corners[1:], corners[0]), strict=True):
        length = np.hypot(u1 - u0, v1 - v0)
        nu, nv = (v1 - v0) / length, (u0 - u1) / length  # outward normal of a clockwise polygon
        edge = np.float32(nu) * u + (np.float32(nv) * v - np.float32(nu * u0 + nv * v0))
        distance = edge if distance is None else np.maximum(distance, edge)
    return distance
