"""A brush that paints smooth shapes on a canvas four times too large, so that the finished picture is anti-aliased."""

import colorsys

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128  # pixels of the finished picture's side
SUPERSAMPLING = 4
# Catmull-Rom weights of the four points around a segment, at eight positions along it
POSITIONS = np.linspace(0, 1, 8, endpoint=False)[:, None] ** np.arange(4)
SPLINE = POSITIONS @ (0.5 * np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]))


def mix(first, second, share):
    """A colour between two (r, g, b) ones; share 0 gives the first, 1 the second."""
    return tuple(a + (b - a) * share for a, b in zip(first, second, strict=True))


def shade(colour, factor):
    """Makes an (r, g, b) colour darker (factor < 1) or lighter (factor > 1)."""
    return tuple(min(255, c * factor) for c in colour)


def vary(rng, colour, hue=0.02, value=0.1):
    """A colour near the given one: hue moves by up to `hue` of the circle, saturation and value by up to `value`."""
    h, s, v = colorsys.rgb_to_hsv(*(min(max(c / 255, 0), 1) for c in colour))
    h, s, v = h + rng.uniform(-hue, hue), s * rng.uniform(1 - value, 1 + value), v * rng.uniform(1 - value, 1 + value)
    return tuple(255 * c for c in colorsys.hsv_to_rgb(h % 1, min(s, 1), min(v, 1)))


def gradient(colours):
    """A canvas whose rows blend from the first of the (r, g, b) colours at the top to the last at the bottom."""
    side = SIZE * SUPERSAMPLING
    rows = np.linspace(0, len(colours) - 1, side)
    column = np.stack([np.interp(rows, np.arange(len(colours)), channel) for channel in np.transpose(colours)], axis=1)
    return Image.fromarray(np.broadcast_to(column[:, None], (side, side, 3)).astype(np.uint8))


class Brush:
    """Paints on a canvas in the coordinates of one figure.

    canvas: RGB image of SIZE * SUPERSAMPLING pixels a side. (x, y): where the figure's origin lies, in pixels of the
    finished picture; `size`: how many of them one unit is; flip mirrors it. light: factors (r, g, b) of the hour's
    light on every colour; glow=True paints a thing that shines by itself.
    """

    def __init__(self, canvas, x=0.0, y=0.0, size=1.0, flip=False, light=(1, 1, 1)):
        self.canvas, self.light = canvas, light
        self.draw = ImageDraw.Draw(canvas, "RGBA")
        self.origin = np.array([x, y]) * SUPERSAMPLING
        self.scale = np.array([-size if flip else size, size]) * SUPERSAMPLING
        self.unit = size * SUPERSAMPLING

    def at(self, x, y, size, flip=False):
        """The same light and canvas for another figure; x, y, size in pixels of the finished picture."""
        return Brush(self.canvas, x, y, size, flip, self.light)

    def colour(self, colour, alpha, glow):
        lit = colour if glow else [c * factor for c, factor in zip(colour, self.light, strict=True)]
        return (*(int(min(max(c, 0), 255)) for c in lit), int(255 * alpha))

    def points(self, points):
        return [tuple(point) for point in (np.asarray(points, float) * self.scale + self.origin).tolist()]

    def ellipse(self, x, y, rx, ry, colour, alpha=1.0, glow=False):
        (x, y), rx, ry = self.points([(x, y)])[0], rx * self.unit, ry * self.unit
        self.draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=self.colour(colour, alpha, glow))

    def polygon(self, points, colour, alpha=1.0, glow=False):
        self.draw.polygon(self.points(points), fill=self.colour(colour, alpha, glow))

    def blob(self, points, colour, alpha=1.0, glow=False):
        """A smooth closed shape through the points."""
        around = np.stack([np.roll(points, shift, axis=0) for shift in (1, 0, -1, -2)], axis=1)  # (n, 4, 2)
        self.polygon((SPLINE @ around).reshape(-1, 2), colour, alpha, glow)

    def line(self, points, width, colour, alpha=1.0, glow=False):
        """Straight strokes through the points, with round ends and corners where the stroke is opaque."""
        points, width, fill = self.points(points), max(1, round(width * self.unit)), self.colour(colour, alpha, glow)
        self.draw.line(points, fill=fill, width=width, joint="curve")
        if alpha == 1.0 and width > 3:
            for x, y in (points[0], points[-1]):
                self.draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=fill)

    def curve(self, points, width, colour, alpha=1.0, glow=False):
        """A smooth stroke through the points."""
        points = np.asarray(points, float)
        padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
        around = np.stack([padded[i : len(padded) - 3 + i] for i in range(4)], axis=1)
        smooth = np.concatenate([(SPLINE @ around).reshape(-1, 2), points[-1:]])
        self.line(smooth, width, colour, alpha, glow)

    def halo(self, x, y, radius, colour, alpha):
        """A soft shine: faint discs over one another, densest in the middle."""
        for step in range(6, 0, -1):
            self.ellipse(x, y, radius * step / 6, radius * step / 6, colour, alpha / 5, glow=True)
