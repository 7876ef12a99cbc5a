"""The painted pictures of the synthetic soundscapes, 128×128: the ambience is the landscape, the events stand in it."""

import numpy as np

from soundscapes.paint.brush import SIZE, Brush, gradient, mix, shade, vary
from soundscapes.paint.objects import FLYING, OBJECTS, WIDTHS

WHITE = (250, 250, 248)
# hour: sky at the top, sky at the horizon, light on everything
HOURS = {
    "dawn": ((150, 175, 220), (252, 212, 190), (0.96, 0.92, 0.94)),
    "noon": ((95, 170, 232), (212, 236, 246), (1.0, 1.0, 1.0)),
    "sunset": ((112, 104, 168), (252, 172, 110), (0.98, 0.88, 0.82)),
    "night": ((20, 28, 66), (66, 82, 132), (0.6, 0.64, 0.8)),
}
GROUNDS = [(128, 178, 88), (150, 186, 96), (104, 160, 92), (190, 178, 104), (206, 170, 110), (226, 230, 236)]
WALLS = [(140, 150, 175), (175, 150, 150), (160, 165, 165), (120, 130, 160)]
CARS = [(215, 70, 60), (240, 240, 240), (70, 110, 180), (230, 190, 70), (70, 70, 80)]


def ridge(rng, height, roughness):
    """A rolling skyline around y = height: points (n, 2) in pixels, from the left edge to the right."""
    x = np.linspace(0, SIZE, 40)
    waves = sum(np.sin(x * rng.uniform(0.02, 0.07) + rng.uniform(0, 6.28)) for _ in range(3))
    return np.stack([x, height + roughness * waves / 3], axis=1)


def hill(b, line, colour):
    """Fills everything below a skyline."""
    b.polygon([*line, (SIZE, SIZE), (0, SIZE)], colour)


def cloud(b, x, y, width, colour, alpha=1.0):
    for dx, dy, radius in ((-0.3, 0, 0.2), (0.3, 0, 0.18), (-0.05, -0.09, 0.26), (0.16, -0.04, 0.2), (0, 0.06, 0.22)):
        b.ellipse(x + dx * width, y + dy * width, radius * width, 0.62 * radius * width, colour, alpha)


def tree(b, x, y, height, rng, bend=0.0):
    leaves = vary(rng, (86, 140, 72), 0.06, 0.15)
    trunk = [(x, y), (x + 0.1 * bend * height, y - 0.4 * height), (x + 0.4 * bend * height, y - 0.7 * height)]
    b.curve(trunk, 0.09 * height, (112, 82, 62))
    for dx, dy, radius in ((0.0, -0.75, 0.27), (-0.14, -0.6, 0.2), (0.16, -0.6, 0.2)):
        tip = (x + (dx + 0.75 * bend) * height, y + (dy + 0.12 * bend**2) * height)
        b.ellipse(
            *tip, radius * height * (1 + 0.5 * abs(bend)), radius * height, shade(leaves, 1.0 + 0.5 * (-dy - 0.6))
        )


def sky(rng, hour, greyness=0.0):
    """A canvas with the hour's sky, its sun, moon or stars; greyness 1 covers them. Returns the Brush for the rest."""
    top, bottom, light = HOURS[hour]
    top, bottom = vary(rng, top, 0.015, 0.06), vary(rng, bottom, 0.015, 0.06)
    grey = (58, 64, 84) if hour == "night" else (150, 160, 174)
    horizon = mix(bottom, shade(grey, 1.25), greyness)
    b = Brush(gradient([mix(top, grey, greyness), horizon, horizon]), light=light)
    if greyness > 0.5:
        return b
    if hour == "night":
        for x, y in rng.uniform((2, 2), (SIZE - 2, 62), (22, 2)):
            b.ellipse(x, y, *[rng.uniform(0.4, 0.9)] * 2, (255, 250, 225), 0.9, glow=True)
        x, y = rng.uniform(14, SIZE - 14), rng.uniform(12, 26)
        b.halo(x, y, 16, (235, 235, 210), 0.2)
        b.ellipse(x, y, 7, 7, (250, 244, 214), glow=True)
    else:
        x, y = rng.uniform(14, SIZE - 14), rng.uniform(12, 24) if hour == "noon" else rng.uniform(40, 58)
        b.halo(x, y, 20, (255, 244, 190), 0.35)
        b.ellipse(x, y, 8, 8, (255, 240, 170) if hour == "noon" else (255, 214, 140), glow=True)
        for _ in range(rng.integers(1, 4)):
            cloud(b, rng.uniform(0, SIZE), rng.uniform(10, 50), rng.uniform(20, 36), mix(WHITE, horizon, 0.3), 0.85)
    return b


def meadow(b, rng, horizon=None):
    """Two rows of hills and the ground in front; returns the ground's colour."""
    ground = vary(rng, GROUNDS[rng.integers(len(GROUNDS))], 0.02, 0.08)
    horizon = rng.uniform(70, 78) if horizon is None else horizon
    hill(b, ridge(rng, horizon - 5, 5), mix(ground, (150, 175, 205), 0.5))
    hill(b, ridge(rng, horizon + 2, 3), shade(ground, 0.92))
    hill(b, ridge(rng, horizon + 14, 2), ground)
    for x, y in rng.uniform((0, horizon + 14), (SIZE, SIZE), (14, 2)):  # tufts
        b.line([(x - 1, y), (x - 1.6, y - 2.2)], 0.7, shade(ground, 0.8))
        b.line([(x + 1, y), (x + 1.6, y - 2.2)], 0.7, shade(ground, 0.8))
    return ground


# Landscapes: paint the ground and return what is to be painted in front of the figures, or None. `column` is the free
# place, in pixels from the left, of the two that need one.


def neutral(b, rng, column):
    meadow(b, rng)


def rain(b, rng, column):
    meadow(b, rng)
    for x in np.linspace(-6, SIZE + 6, 8):
        cloud(b, x + rng.uniform(-6, 6), rng.uniform(0, 9), rng.uniform(32, 44), vary(rng, (128, 136, 150), 0, 0.08))
    for x, y in zip(rng.uniform(8, SIZE - 8, 3), (95, 108, 122), strict=True):
        b.ellipse(x, y, rng.uniform(11, 18), rng.uniform(2.5, 3.5), (168, 194, 216))
        b.ellipse(x, y - 0.3, 5, 1.1, (225, 236, 245))

    def streaks():
        slant = rng.uniform(-0.3, 0.3)
        for x, y in rng.uniform((-10, 8), (SIZE + 10, SIZE), (85, 2)):
            length = rng.uniform(6, 12)
            b.line([(x, y), (x + slant * length, y + length)], 1.0, (214, 232, 250), 0.75, glow=True)

    return streaks


def wind(b, rng, column):
    ground = meadow(b, rng)
    way = rng.choice([-1, 1])
    for x in rng.permutation([16, 48, 80, 112])[:3] + rng.uniform(-8, 8, 3):
        tree(b, x, rng.uniform(82, 88), rng.uniform(30, 40), rng, way * rng.uniform(0.5, 0.7))
    for x in rng.uniform(0, SIZE, 60):
        y = rng.uniform(88, SIZE)
        b.line([(x, y), (x + 4 * way, y - 3)], 0.8, shade(ground, 0.78))

    for y in np.array([10, 26, 44, 62]) + rng.uniform(-5, 5, 4):
        x, length = rng.uniform(20, 108) - 24 * way, rng.uniform(32, 46)
        turns = np.linspace(0.5 * np.pi, -1.2 * np.pi, 9)
        curl = np.stack([x + way * (length + 6 * np.cos(turns)), y - 6 + 6 * np.sin(turns)], axis=1)
        b.curve([(x, y + 1), (x + 0.4 * way * length, y - 1), *curl], 2.1, WHITE)

    def leaves():
        for x, y in rng.uniform((0, 10), (SIZE, 120), (16, 2)):
            leaf = [(x, y), (x + 2.4, y - 1.6), (x + 4.8, y), (x + 2.4, y + 1.4)]
            b.polygon(leaf, vary(rng, (226, 140, 50), 0.05))

    return leaves


def sea(b, rng, column):
    water, sand = vary(rng, (46, 134, 186), 0.03), vary(rng, (238, 214, 160), 0.01, 0.05)
    horizon, beach = rng.uniform(58, 66), rng.uniform(100, 106)
    for step in np.linspace(0, 1, 8):
        tone = mix(shade(water, 0.85), (120, 206, 214), step**1.5)
        b.polygon([(0, horizon + step * 40), (SIZE, horizon + step * 40), (SIZE, SIZE), (0, SIZE)], tone)
    if rng.random() < 0.5:
        x, y = rng.uniform(15, SIZE - 15), horizon + 3
        b.polygon([(x, y - 1), (x, y - 13), (x + 7, y - 2)], WHITE)
        b.polygon([(x - 1, y - 1), (x - 1, y - 10), (x - 5, y - 2)], (240, 200, 190))
        b.polygon([(x - 7, y), (x + 8, y), (x + 5, y + 3), (x - 5, y + 3)], (170, 80, 60))
    for row, y in enumerate(np.linspace(horizon + 6, beach - 8, 5)):
        x = np.linspace(-5, SIZE + 5, 24)
        crest = np.stack([x, y + (0.6 + 0.4 * row) * np.sin(x * 6.28 / (12 + 5 * row) + rng.uniform(0, 6.28))], axis=1)
        b.line(crest, 0.8 + 0.4 * row, (228, 244, 248))
    shore = ridge(rng, beach, 3)
    hill(b, shore - (0, 4), (240, 248, 250))
    hill(b, shore, shade(sand, 0.86))
    hill(b, shore + (0, 4), sand)


def stream(b, rng, column):
    ground = meadow(b, rng, rng.uniform(68, 74))
    water = vary(rng, (76, 158, 214), 0.02)
    y = np.linspace(78, 132, 12)
    depth = (y - 78) / 54
    middle = column + (1 - depth) * rng.uniform(-25, 25) + 10 * np.sin(depth * 6 + rng.uniform(0, 6.28)) * (0.3 + depth)
    half = 3 + 16 * depth
    bank = [
        np.concatenate([np.stack([middle - w, y], 1), np.stack([middle + w, y], 1)[::-1]]) for w in (half + 2, half)
    ]
    b.polygon(bank[0], shade(ground, 0.68))
    b.polygon(bank[1], water)
    for row in range(2, 11):
        x, width = middle[row] + rng.uniform(-0.5, 0.5) * half[row], 0.35 * half[row]
        b.curve([(x - width, y[row]), (x, y[row] - 1.2), (x + width, y[row])], 1.0, (216, 240, 250))
    for row in rng.integers(3, 11, 5):
        x = middle[row] + rng.choice([-1, 1]) * half[row]
        b.ellipse(x, y[row], rng.uniform(2, 4), rng.uniform(1.5, 2.5), vary(rng, (150, 150, 155), 0, 0.12))


def fire(b, rng, column):
    meadow(b, rng)
    for x in rng.permutation([8, 32, 64, 96, 120])[:4] + rng.uniform(-6, 6, 4):
        y, height = rng.uniform(76, 82), rng.uniform(22, 36)
        for level in (0.0, 0.3, 0.55):
            half, base = 0.32 * height * (1.1 - level), y - level * height
            b.polygon([(x - half, base), (x, base - 0.5 * height), (x + half, base)], (44, 78, 66))
    x, y, size = column, rng.uniform(108, 116), rng.uniform(40, 48)
    b.halo(x, y - 0.4 * size, 1.3 * size, (255, 150, 50), 0.35)
    f = b.at(x, y, size)
    for way in (-1, 1):
        f.line([(-0.42 * way, 0.0), (0.36 * way, -0.16)], 0.12, (96, 62, 44), glow=True)
    for width, height, colour in (
        (0.4, 1.0, (235, 88, 36)),
        (0.29, 0.74, (252, 160, 44)),
        (0.17, 0.46, (255, 232, 130)),
    ):
        lean, side = rng.uniform(-0.08, 0.08, 2)
        left = [(0, -0.02), (-width, -0.2), (-0.72 * width, -0.62 * height), (-0.45 * width, -0.46 * height)]
        right = [(0.4 * width, -0.5 * height), (0.7 * width + side, -0.72 * height), (width, -0.2)]
        f.blob([*left, (lean, -height), *right], colour, glow=True)
    for dx, dy in rng.uniform((-0.5, -1.5), (0.5, -0.8), (9, 2)):
        f.ellipse(dx, dy, 0.022, 0.022, (255, 190, 80), glow=True)


def crickets(b, rng, column):
    meadow(b, rng)

    def grass():
        for x in np.linspace(-2, SIZE + 2, 46) + rng.uniform(-2, 2, 46):
            height, lean = rng.uniform(12, 30), rng.uniform(-8, 8)
            blade = [(x - 1.6, SIZE), (x + 0.3 * lean, SIZE - 0.6 * height), (x + lean, SIZE - height), (x + 1.6, SIZE)]
            b.polygon(blade, vary(rng, (110, 186, 90), 0.03, 0.2))
        for x, y in rng.uniform((4, 40), (SIZE - 4, 118), (14, 2)):  # glow-worms
            b.halo(x, y, 6, (215, 255, 120), 0.45)
            b.ellipse(x, y, 1.5, 1.5, (245, 255, 180), glow=True)

    return grass


def traffic(b, rng, column):
    lit = b.light[0] < 0.8
    x = -4.0
    while x < SIZE:
        width, top = rng.uniform(10, 19), rng.uniform(26, 58)
        wall = vary(rng, WALLS[rng.integers(len(WALLS))], 0.02)
        b.polygon([(x, 84), (x, top), (x + width, top), (x + width, 84)], wall)
        for wx in np.arange(x + 2, x + width - 2.5, 4):
            for wy in np.arange(top + 3, 76, 6):
                if rng.random() < 0.75:
                    pane = [(wx, wy), (wx + 2.2, wy), (wx + 2.2, wy + 3), (wx, wy + 3)]
                    b.polygon(pane, (255, 226, 140) if lit else (222, 236, 245), glow=lit)
        x += width + rng.uniform(0, 1)
    b.polygon([(0, 78), (SIZE, 78), (SIZE, 104), (0, 104)], (88, 90, 100))
    b.polygon([(0, 104), (SIZE, 104), (SIZE, SIZE), (0, SIZE)], vary(rng, (188, 182, 172), 0.01, 0.05))
    b.line([(0, 104), (SIZE, 104)], 1.6, (225, 222, 215))
    for x in np.arange(rng.uniform(-12, 0), SIZE, 14):
        b.line([(x, 91), (x + 7, 91)], 1.2, (240, 236, 220))
    for lane, way in ((84, -1), (97, 1)):
        x = rng.uniform(0, 12)
        while x < SIZE:
            coat = vary(rng, CARS[rng.integers(len(CARS))])
            b.polygon(
                [(x - 4, lane - 2), (x - 2.5, lane - 5), (x + 2.5, lane - 5), (x + 4, lane - 2)], shade(coat, 0.8)
            )
            b.polygon([(x - 6.5, lane + 1), (x - 6.5, lane - 2.2), (x + 6.5, lane - 2.2), (x + 6.5, lane + 1)], coat)
            for dx in (-3.6, 3.6):
                b.ellipse(x + dx, lane + 1, 1.6, 1.6, (40, 40, 45))
            b.ellipse(x + 6.3 * way, lane - 0.8, 1, 1, (255, 244, 180), glow=True)
            b.ellipse(x - 6.3 * way, lane - 0.8, 0.9, 0.9, (255, 70, 60), glow=True)
            x += rng.uniform(17, 34)


LANDSCAPES = {
    "rain": rain, "wind": wind, "sea": sea, "stream": stream, "fire": fire, "crickets": crickets, "traffic": traffic
}  # fmt: skip
NEEDS_COLUMN = {"fire", "stream"}
DARK = {"fire", "crickets"}  # always by night


def paint(labels, rng):
    """The picture of a scene: PIL image 128×128, RGB. labels: at most one of LANDSCAPES, any of OBJECTS."""
    ambience = next((label for label in labels if label in LANDSCAPES), None)
    hour = "night" if ambience in DARK else list(HOURS)[rng.choice(4, p=[0.2, 0.4, 0.2, 0.2])]
    b = sky(rng, hour, greyness=rng.uniform(0.75, 0.95) if ambience == "rain" else 0.0)

    # So that nothing hides anything, each gets a column of its own, in one row on the ground and one in the sky.
    flying = [label for label in labels if label in FLYING]
    standing = [label for label in labels if label in OBJECTS and label not in FLYING]
    standing += [ambience] * (ambience in NEEDS_COLUMN)
    places = {}
    above = (22, 32, 46) if standing else (28, 46, 60)  # a sky of its own has room for more
    for row, (low, high, largest) in ((flying, above), (standing, (112, 122, 56 if flying else 66))):
        width = SIZE / max(len(row), 1)
        for column, label in enumerate(rng.permutation(row)):
            size = rng.uniform(0.85, 1.0) * min(largest, 0.96 * width / WIDTHS.get(label, 1))
            slack = max(0, width / 2 - 0.52 * size * WIDTHS.get(label, 1))
            places[str(label)] = ((column + 0.5) * width + rng.uniform(-slack, slack), rng.uniform(low, high), size)

    foreground = LANDSCAPES.get(ambience, neutral)(b, rng, places.get(ambience, (0,))[0])
    for label in sorted(places.keys() - {ambience}, key=lambda label: places[label][1]):
        x, y, size = places[label]
        if label in FLYING:
            y += size / 2  # a place in the sky is the figure's middle, on the ground its feet
        else:
            b.ellipse(x, y, 0.5 * size * WIDTHS.get(label, 1), 0.08 * size, (30, 30, 50), 0.28)
        # Figures keep more of their own colour at night than the landscape does.
        figure = b.at(x, y, size, flip=rng.random() < 0.5)
        figure.light = tuple(0.55 + 0.45 * factor for factor in b.light)
        OBJECTS[label](figure, rng)
    if foreground:
        foreground()
    return b.canvas.reduce(b.canvas.width // SIZE)
