"""The objects that make the sounds in the painted pictures: one function per event.

Each paints with a Brush whose unit is the object's width, feet at y = 0 and the top near y = -1 (up is negative), and
draws its colours from rng; WIDTHS says which are wider or slimmer.
"""

import numpy as np

from soundscapes.paint.brush import mix, shade, vary

BLACK, WHITE, CREAM = (35, 32, 40), (250, 250, 248), (250, 240, 215)
PAINTS = [(222, 60, 55), (240, 150, 40), (245, 205, 70), (70, 150, 90), (60, 125, 205), (140, 85, 175), (235, 120, 150)]


def pick(rng, colours):
    return vary(rng, colours[rng.integers(len(colours))])


def wheel(b, x, y, radius, rim=(200, 200, 205)):
    b.ellipse(x, y, radius, radius, BLACK)
    b.ellipse(x, y, 0.55 * radius, 0.55 * radius, rim)
    b.ellipse(x, y, 0.2 * radius, 0.2 * radius, BLACK)


def bird(b, rng):
    coat = pick(rng, [(225, 70, 60), (60, 130, 220), (250, 195, 50), (235, 120, 50), (90, 180, 200)])
    wing, belly = shade(coat, 0.72), mix(coat, WHITE, 0.65)
    lift = rng.uniform(0.85, 1.0)
    b.blob([(0.12, -0.45), (0.0, -0.5), (0.1, -0.98 * lift), (0.3, -0.95 * lift), (0.24, -0.6)], shade(wing, 0.85))
    b.polygon([(-0.18, -0.42), (-0.52, -0.34), (-0.47, -0.25), (-0.54, -0.16), (-0.16, -0.24)], wing)
    b.blob([(-0.26, -0.36), (-0.05, -0.5), (0.22, -0.6), (0.36, -0.48), (0.24, -0.24), (0.0, -0.14)], coat)
    b.blob([(-0.1, -0.22), (0.1, -0.36), (0.3, -0.42), (0.22, -0.24), (0.0, -0.14)], belly)
    b.ellipse(0.27, -0.55, 0.15, 0.15, coat)
    b.polygon([(0.39, -0.63), (0.56, -0.55), (0.4, -0.56)], (250, 170, 40))
    b.polygon([(0.39, -0.55), (0.52, -0.49), (0.38, -0.48)], (230, 140, 30))
    b.ellipse(0.3, -0.59, 0.045, 0.05, WHITE)
    b.ellipse(0.31, -0.59, 0.03, 0.035, BLACK)
    b.blob([(0.1, -0.34), (-0.12, -0.34), (-0.34, -0.86 * lift), (-0.12, -0.92 * lift), (0.1, -0.66)], wing)
    b.curve([(-0.22, -0.78 * lift), (-0.08, -0.58), (0.02, -0.42)], 0.03, belly)


def dog(b, rng):
    coat = pick(rng, [(190, 125, 65), (225, 175, 105), (120, 80, 55), (235, 220, 195), (95, 85, 85)])
    dark, light = shade(coat, 0.68), mix(coat, WHITE, 0.55)
    b.curve([(-0.24, -0.1), (-0.42, -0.16), (-0.48, -0.36)], 0.09, coat)
    b.blob([(-0.3, -0.02), (-0.32, -0.24), (-0.16, -0.48), (0.06, -0.62), (0.22, -0.5), (0.2, -0.02)], coat)
    b.blob([(0.04, -0.3), (0.1, -0.54), (0.2, -0.5), (0.2, -0.22)], light)
    b.ellipse(-0.14, -0.15, 0.18, 0.16, shade(coat, 0.9))
    b.ellipse(-0.04, -0.03, 0.13, 0.045, light)
    b.line([(0.07, -0.4), (0.1, -0.05)], 0.1, shade(coat, 0.85))
    b.line([(0.17, -0.4), (0.2, -0.05)], 0.1, coat)
    b.ellipse(0.24, -0.03, 0.09, 0.045, light)
    b.ellipse(0.14, -0.74, 0.21, 0.19, coat)
    b.polygon([(0.24, -0.62), (0.42, -0.5), (0.2, -0.53)], (180, 50, 60))  # the open mouth
    b.ellipse(0.31, -0.53, 0.055, 0.04, (245, 130, 140))
    b.ellipse(0.32, -0.7, 0.15, 0.095, light)
    b.ellipse(0.45, -0.75, 0.05, 0.045, BLACK)
    b.blob([(0.04, -0.9), (-0.1, -0.78), (-0.12, -0.54), (0.0, -0.52), (0.08, -0.72)], dark)
    b.ellipse(0.2, -0.8, 0.035, 0.045, BLACK)
    b.ellipse(0.21, -0.815, 0.012, 0.014, WHITE)
    b.line([(-0.03, -0.56), (0.2, -0.54)], 0.055, pick(rng, PAINTS))


def cow(b, rng):
    coat, patch = (248, 244, 236), pick(rng, [(50, 45, 50), (140, 80, 50), (95, 60, 45)])
    pink = (240, 165, 160)
    for x, tone in ((-0.26, 0.85), (0.27, 0.85), (-0.36, 1.0), (0.16, 1.0)):
        b.line([(x, -0.3), (x, -0.08)], 0.1, shade(coat, tone))
        b.line([(x, -0.06), (x, -0.04)], 0.1, BLACK)
    b.curve([(-0.42, -0.58), (-0.52, -0.45), (-0.5, -0.28)], 0.035, shade(coat, 0.85))
    b.ellipse(-0.5, -0.26, 0.035, 0.05, patch)
    b.ellipse(-0.2, -0.22, 0.1, 0.07, pink)
    back, belly = (
        [(-0.44, -0.34), (-0.43, -0.62), (-0.1, -0.66), (0.25, -0.66)],
        [(0.36, -0.46), (0.26, -0.24), (-0.3, -0.24)],
    )
    b.blob(back + belly, coat)
    shift = rng.uniform(-0.05, 0.05)
    b.blob([(-0.36 + shift, -0.44), (-0.33, -0.62), (-0.15 + shift, -0.63), (-0.14, -0.44), (-0.26, -0.36)], patch)
    b.blob([(0.0 + shift, -0.3), (0.02, -0.46), (0.16, -0.5 - shift), (0.22, -0.36), (0.12, -0.27)], patch)
    for x, tip in ((0.3, 0.24), (0.52, 0.58)):
        b.curve([(x, -0.84), (tip, -0.9), (tip, -0.98)], 0.045, (225, 205, 165))
    b.ellipse(0.23, -0.77, 0.09, 0.05, patch)
    b.ellipse(0.59, -0.77, 0.09, 0.05, patch)
    b.blob([(0.27, -0.82), (0.41, -0.9), (0.55, -0.82), (0.52, -0.6), (0.41, -0.52), (0.3, -0.6)], coat)
    b.blob([(0.43, -0.88), (0.56, -0.82), (0.53, -0.66), (0.44, -0.68)], patch)
    b.ellipse(0.41, -0.56, 0.14, 0.095, pink)
    for x in (0.36, 0.46):
        b.ellipse(x, -0.57, 0.022, 0.03, shade(pink, 0.55))
    for x in (0.34, 0.49):
        b.ellipse(x, -0.74, 0.04, 0.045, WHITE)
        b.ellipse(x, -0.74, 0.026, 0.034, BLACK)


def frog(b, rng):
    skin = pick(rng, [(95, 175, 60), (60, 160, 90), (140, 185, 50)])
    dark, belly = shade(skin, 0.75), mix(skin, (250, 250, 190), 0.7)
    b.ellipse(0, -0.01, 0.52, 0.08, (40, 110, 75))
    for side in (-1, 1):
        b.ellipse(0.34 * side, -0.15, 0.17, 0.15, dark)
        b.ellipse(0.38 * side, -0.04, 0.15, 0.05, skin)
    b.ellipse(0, -0.27, 0.33, 0.26, skin)
    b.ellipse(0, -0.24, 0.22, 0.19, belly)
    for side in (-1, 1):
        b.line([(0.2 * side, -0.28), (0.17 * side, -0.06)], 0.09, skin)
        b.ellipse(0.17 * side, -0.03, 0.1, 0.04, skin)
        b.ellipse(0.21 * side, -0.74, 0.14, 0.14, skin)
    b.ellipse(0, -0.54, 0.38, 0.22, skin)
    for side in (-1, 1):
        b.ellipse(0.21 * side, -0.76, 0.095, 0.1, CREAM)
        b.ellipse(0.21 * side, -0.76, 0.05, 0.07, BLACK)
    b.curve([(-0.26, -0.52), (-0.1, -0.44), (0.1, -0.44), (0.26, -0.52)], 0.035, shade(dark, 0.6))
    puff = rng.uniform(0.1, 0.17)
    b.ellipse(0, -0.33, puff, puff * 0.85, mix(belly, (250, 200, 190), 0.4))


def bell(b, rng):
    wood, bronze = (
        pick(rng, [(130, 85, 55), (160, 110, 70), (105, 80, 75)]),
        pick(rng, [(225, 175, 60), (200, 150, 70)]),
    )
    for x in (-0.4, 0.4):
        b.line([(x, -0.02), (0.9 * x, -0.9)], 0.08, wood)
        b.line([(x - 0.08, -0.02), (x + 0.08, -0.02)], 0.06, shade(wood, 0.8))
    b.line([(-0.47, -0.92), (0.47, -0.92)], 0.1, shade(wood, 1.15))
    swing = rng.uniform(-0.1, 0.1)
    b.ellipse(1.3 * swing, -0.15, 0.07, 0.07, shade(bronze, 0.55))

    def swung(*points):
        return [(x - swing * (y + 0.88), y) for x, y in points]

    right = [(0.05, -0.86), (0.17, -0.72), (0.2, -0.42), (0.31, -0.21)]
    b.blob(swung(*right, *[(-x, y) for x, y in reversed(right)]), bronze)
    b.line(swung((-0.31, -0.2), (0.31, -0.2)), 0.07, shade(bronze, 0.78))
    b.line(swung((-0.19, -0.42), (0.19, -0.42)), 0.03, shade(bronze, 0.82))
    b.curve(swung((-0.1, -0.72), (-0.12, -0.5), (-0.18, -0.32)), 0.045, mix(bronze, WHITE, 0.6))


def clock(b, rng):
    case = pick(rng, PAINTS)
    for side in (-1, 1):
        b.line([(0.2 * side, -0.18), (0.3 * side, -0.03)], 0.09, shade(case, 0.7))
        b.ellipse(0.25 * side, -0.86, 0.15, 0.12, (215, 185, 95))
        b.ellipse(0.25 * side, -0.81, 0.17, 0.07, shade(case, 0.85))
    b.line([(0, -0.98), (0, -0.84)], 0.05, (150, 130, 80))
    b.line([(-0.05, -0.98), (0.05, -0.98)], 0.07, (150, 130, 80))
    b.ellipse(0, -0.45, 0.41, 0.41, case)
    b.ellipse(0, -0.45, 0.33, 0.33, CREAM)
    for hour in range(12):
        angle = hour * np.pi / 6
        b.ellipse(0.27 * np.sin(angle), -0.45 - 0.27 * np.cos(angle), *([0.03 if hour % 3 == 0 else 0.018] * 2), BLACK)
    for length, width, angle in ((0.15, 0.055, rng.uniform(0, 6.28)), (0.23, 0.04, rng.uniform(0, 6.28))):
        b.line([(0, -0.45), (length * np.sin(angle), -0.45 - length * np.cos(angle))], width, BLACK)
    b.ellipse(0, -0.45, 0.045, 0.045, shade(case, 0.8))


def car_horn(b, rng):
    paint = pick(rng, PAINTS)
    glass = (190, 225, 240)
    b.blob([(-0.42, -0.3), (-0.32, -0.5), (-0.12, -0.6), (0.1, -0.57), (0.24, -0.4), (0.26, -0.28)], paint)
    b.blob([(-0.32, -0.36), (-0.26, -0.48), (-0.12, -0.54), (-0.08, -0.5), (-0.08, -0.36)], glass)
    b.blob([(-0.03, -0.36), (-0.03, -0.52), (0.06, -0.52), (0.17, -0.38)], glass)
    b.blob(
        [(-0.56, -0.14), (-0.55, -0.3), (-0.38, -0.39), (0.2, -0.37), (0.4, -0.28), (0.42, -0.13), (-0.1, -0.09)], paint
    )
    b.line([(-0.5, -0.15), (0.36, -0.15)], 0.035, shade(paint, 0.7))
    wheel(b, -0.33, -0.11, 0.12)
    wheel(b, 0.19, -0.11, 0.12)
    b.ellipse(0.37, -0.26, 0.05, 0.055, (255, 240, 160), glow=True)
    b.line([(-0.07, -0.3), (-0.01, -0.3)], 0.025, shade(paint, 0.6))
    for radius in (0.12, 0.22, 0.32):  # the honking
        angles = np.linspace(-1.0, 0.5, 7)
        arc = np.stack([0.38 + radius * np.cos(angles), -0.34 + radius * np.sin(angles)], axis=1)
        b.curve(arc, 0.045, (255, 225, 60), glow=True)


def train(b, rng):
    paint, trim = pick(rng, [(45, 90, 75), (150, 45, 45), (50, 65, 110), (60, 60, 65)]), (225, 180, 70)
    b.line([(-0.66, 0.0), (0.66, 0.0)], 0.03, (120, 110, 110))
    for x in np.arange(-0.6, 0.61, 0.15):
        b.line([(x, 0.02), (x, 0.05)], 0.05, (110, 80, 60))
    x, y, size = 0.3, -0.82, 0.07
    for _ in range(5):  # smoke drifts back and thins
        b.ellipse(x, y, 1.25 * size, size, WHITE, 0.85)
        x, y, size = x - rng.uniform(0.1, 0.16), y - rng.uniform(0.0, 0.05), size * rng.uniform(1.05, 1.25)
    b.polygon([(0.22, -0.5), (0.2, -0.76), (0.4, -0.76), (0.36, -0.5)], shade(paint, 0.6))
    b.line([(0.19, -0.76), (0.41, -0.76)], 0.05, trim)
    b.ellipse(0.06, -0.52, 0.08, 0.09, trim)
    b.polygon([(-0.2, -0.26), (-0.2, -0.52), (0.46, -0.52), (0.46, -0.26)], paint)
    b.ellipse(0.46, -0.39, 0.06, 0.13, shade(paint, 0.7))
    for x in (-0.02, 0.18):
        b.line([(x, -0.5), (x, -0.28)], 0.025, trim)
    b.polygon([(-0.52, -0.2), (-0.52, -0.74), (-0.16, -0.74), (-0.16, -0.2)], paint)
    b.polygon([(-0.45, -0.48), (-0.45, -0.66), (-0.24, -0.66), (-0.24, -0.48)], (255, 235, 170), glow=True)
    b.line([(-0.57, -0.77), (-0.11, -0.77)], 0.07, shade(paint, 0.55))
    b.line([(-0.54, -0.21), (0.5, -0.21)], 0.08, shade(paint, 0.6))
    b.polygon([(0.42, -0.22), (0.62, -0.01), (0.38, -0.01)], trim)
    wheel(b, -0.36, -0.15, 0.15, (200, 60, 50))
    for x in (-0.04, 0.2):
        wheel(b, x, -0.11, 0.11, (200, 60, 50))
    b.line([(-0.36, -0.13), (0.2, -0.1)], 0.035, (200, 200, 205))
    b.ellipse(0.5, -0.47, 0.045, 0.05, (255, 240, 160), glow=True)


def helicopter(b, rng):
    paint = pick(rng, PAINTS)
    dark = shade(paint, 0.65)
    b.polygon([(-0.05, -0.56), (-0.52, -0.6), (-0.52, -0.53), (-0.05, -0.34)], paint)
    b.polygon([(-0.46, -0.56), (-0.6, -0.78), (-0.52, -0.78), (-0.4, -0.57)], dark)
    b.ellipse(-0.52, -0.6, 0.12, 0.12, (235, 235, 240), 0.45)
    for x in (0.02, 0.26):
        b.line([(x, -0.28), (x - 0.02, -0.13)], 0.035, dark)
    b.curve([(-0.14, -0.12), (0.3, -0.12), (0.42, -0.17)], 0.045, dark)
    b.blob(
        [(-0.16, -0.44), (-0.02, -0.64), (0.2, -0.66), (0.4, -0.5), (0.4, -0.34), (0.16, -0.25), (-0.06, -0.28)], paint
    )
    b.blob([(0.17, -0.42), (0.17, -0.6), (0.28, -0.58), (0.39, -0.46), (0.36, -0.4)], (195, 230, 245))
    b.ellipse(0.03, -0.46, 0.075, 0.075, (195, 230, 245))
    b.line([(0.1, -0.66), (0.1, -0.78)], 0.06, dark)
    tilt = rng.uniform(-0.04, 0.04)
    b.blob([(-0.52, -0.8 + tilt), (0.1, -0.86), (0.7, -0.8 - tilt), (0.1, -0.75)], (235, 235, 240), 0.55)
    b.line([(-0.5, -0.8 + tilt), (0.7, -0.8 - tilt)], 0.04, BLACK)


def siren(b, rng):
    body = pick(rng, [(250, 250, 250), (250, 245, 225), (245, 225, 110)])
    stripe = pick(rng, [(225, 55, 50), (240, 120, 40)])
    blue = (70, 130, 255)
    for angle in np.linspace(-2.9, -0.25, 7):
        reach = [(0.02 + r * np.cos(angle), -0.66 + r * np.sin(angle)) for r in (0.14, 0.32)]
        b.line(reach, 0.04, blue, glow=True)
    b.halo(0.02, -0.66, 0.34, blue, 0.6)
    b.ellipse(0.02, -0.66, 0.1, 0.1, (120, 175, 255), glow=True)
    nose = [(0.2, -0.64), (0.36, -0.6), (0.48, -0.38), (0.55, -0.34), (0.55, -0.12)]
    b.polygon([(-0.54, -0.12), (-0.54, -0.64), *nose], body)
    b.polygon([(0.22, -0.38), (0.22, -0.57), (0.34, -0.55), (0.43, -0.38)], (150, 195, 220))
    b.polygon([(-0.54, -0.18), (-0.54, -0.29), (0.55, -0.29), (0.55, -0.18)], stripe)
    b.line([(-0.25, -0.54), (-0.25, -0.36)], 0.07, stripe)
    b.line([(-0.34, -0.45), (-0.16, -0.45)], 0.07, stripe)
    b.line([(-0.53, -0.12), (0.53, -0.12)], 0.05, (110, 110, 120))
    wheel(b, -0.32, -0.11, 0.12)
    wheel(b, 0.32, -0.11, 0.12)
    b.ellipse(0.52, -0.31, 0.04, 0.04, (255, 240, 160), glow=True)


def drum(b, rng):
    shell, hoop = pick(rng, PAINTS), pick(rng, [(245, 235, 220), (225, 180, 80)])
    b.ellipse(0, -0.13, 0.4, 0.13, shade(hoop, 0.8))
    b.ellipse(0, -0.17, 0.4, 0.13, shade(shell, 0.75))
    b.polygon([(-0.4, -0.17), (-0.4, -0.58), (0.4, -0.58), (0.4, -0.17)], shell)
    b.ellipse(0, -0.17, 0.4, 0.13, shell)
    angles = np.linspace(0, np.pi, 9)
    cords = [(-0.4 * np.cos(a), (-0.2 if i % 2 else -0.54) + 0.12 * np.sin(a)) for i, a in enumerate(angles)]
    b.line(cords, 0.035, hoop)
    b.ellipse(0, -0.58, 0.42, 0.15, hoop)
    b.ellipse(0, -0.6, 0.37, 0.12, CREAM)
    for side in (-1, 1):
        reach = rng.uniform(0.4, 0.52)
        b.line([(0.1 * side, -0.62), (reach * side, -0.97)], 0.05, (190, 135, 80))
        b.ellipse(0.1 * side, -0.63, 0.06, 0.055, (225, 175, 115))


def thunder(b, rng):
    cloud = pick(rng, [(98, 102, 128), (88, 92, 112), (110, 106, 136)])
    b.halo(0.02, -0.38, 0.5, (255, 245, 170), 0.4)
    bend = rng.uniform(-0.05, 0.05)
    tip = [(-0.05 + bend, -0.3), (-0.14 + bend, 0.02), (0.24, -0.42)]
    b.polygon([(-0.02, -0.62), (-0.2, -0.27), *tip, (0.07, -0.39), (0.2, -0.62)], (255, 226, 70), glow=True)
    b.ellipse(0, -0.64, 0.5, 0.14, shade(cloud, 0.75))
    for x, y, radius in ((-0.3, -0.7, 0.19), (0.31, -0.7, 0.18), (-0.07, -0.8, 0.22), (0.17, -0.77, 0.17)):
        b.ellipse(x, y, radius, 0.85 * radius, cloud)
        b.ellipse(x - 0.03, y - 0.05, 0.6 * radius, 0.5 * radius, shade(cloud, 1.18))


OBJECTS = {
    "bird": bird, "dog": dog, "cow": cow, "frog": frog, "bell": bell, "clock": clock, "car horn": car_horn,
    "train": train, "helicopter": helicopter, "siren": siren, "drum": drum, "thunder": thunder,
}  # fmt: skip
FLYING = {"bird", "helicopter", "thunder"}
WIDTHS = {"cow": 1.15, "car horn": 1.25, "train": 1.3, "helicopter": 1.35, "siren": 1.15}  # against 1 for the others
