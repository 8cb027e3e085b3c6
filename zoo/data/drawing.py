"""What the things in the built-in data set look like.

A thing is drawn as a list of flat polygons in coordinates of its own, x to
the right and y down, about 0 to 1 along its longer side. `render` turns the
list into an antialiased picture of any size. Each object function draws one
class in one of its variants, in a main and an accent colour.
"""

import numpy as np
from PIL import Image, ImageDraw

DARK = (45, 42, 48)
GLASS = (188, 214, 226)
WOOD = (112, 78, 50)
LEAF = (70, 128, 62)
SKIN = ((236, 200, 170), (198, 144, 106), (130, 86, 60))
SUPERSAMPLING = 3  # polygons are filled at this multiple of the final size


class Sketch:
    """Polygons with their colours, in the order in which they are painted.

    Example:

    >>> sketch = Sketch()
    >>> sketch.box(0, 0, 1, 0.5, (255, 0, 0))
    >>> render(sketch, side=32).size
    (32, 16)
    """

    def __init__(self):
        self.polygons = []  # pairs of points, float (n, 2), and RGB colour

    def polygon(self, points, colour):
        """Adds a filled polygon."""
        self.polygons.append((np.asarray(points, float), colour))

    def box(self, left, top, right, bottom, colour):
        """Adds an upright rectangle."""
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        self.polygon(corners, colour)

    def ellipse(self, x, y, x_radius, y_radius, colour):
        """Adds an ellipse around `(x, y)`."""
        self.polygon(arc(x, y, x_radius, y_radius, 0, 360), colour)

    def stroke(self, points, width, colour):
        """Adds a line through `points`, each segment a bar of `width`."""
        points = np.asarray(points, float)
        for start, stop in zip(points[:-1], points[1:], strict=True):
            along = (stop - start) / np.linalg.norm(stop - start) * width / 2
            across = np.array([-along[1], along[0]])
            # Segments overlap by half a width, which fills their joints.
            start, stop = start - along, stop + along
            self.polygon(
                [start + across, stop + across, stop - across, start - across],
                colour,
            )


def arc(x, y, x_radius, y_radius, start, stop):
    """Gives points of an elliptic arc, in degrees clockwise from the right.

    Returns:
        float array of shape `(num_points, 2)`.

    Example:

    >>> arc(0, 0, 2, 1, 0, 90)[[0, -1]].round(6).tolist()
    [[2.0, 0.0], [0.0, 1.0]]
    """
    num_points = 4 + int(abs(stop - start) / 18)
    angles = np.radians(np.linspace(start, stop, num_points))
    return np.stack(
        [x + x_radius * np.cos(angles), y + y_radius * np.sin(angles)], axis=1
    )


def render(sketch, side, angle=0.0, stretch=1.0, flip=False):
    """Paints a sketch as a picture that its polygons just fill.

    Args:
        sketch: `Sketch` with at least one polygon.
        side: int. Longer side of the picture, pixels, at least 1.
        angle: float. Rotation, degrees clockwise.
        stretch: float above 0. Width is multiplied by it, before `side` sets
            the scale.
        flip: bool. Whether left and right are exchanged first.

    Returns:
        `PIL.Image` of mode RGBA, transparent around the polygons.

    Example:

    >>> sketch = Sketch()
    >>> sketch.ellipse(0, 0, 1, 1, (255, 220, 0))
    >>> render(sketch, side=40, angle=30).size
    (40, 40)
    """
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    width_scale = -stretch if flip else stretch
    transform = np.array(
        [[width_scale * cosine, width_scale * sine], [-sine, cosine]]
    )
    points = np.concatenate([points for points, _ in sketch.polygons])
    points = points @ transform
    origin = points.min(axis=0)
    extent = points.max(axis=0) - origin
    scale = side / extent.max()
    size = np.maximum(np.round(extent * scale), 1).astype(int)
    # `ImageDraw` paints the pixel of the last coordinate too.
    pixels = (points - origin) * (size * SUPERSAMPLING - 1) / extent
    tile = Image.new("RGBA", tuple((size * SUPERSAMPLING).tolist()))
    draw = ImageDraw.Draw(tile)
    first = 0
    for corners, colour in sketch.polygons:
        last = first + len(corners)
        draw.polygon(pixels[first:last].ravel().tolist(), fill=colour)
        first = last
    return tile.reduce(SUPERSAMPLING)


def shade(colour, factor):
    """Darkens (`factor` below 1) or lightens a colour.

    Example:

    >>> shade((100, 200, 40), 0.5)
    (50, 100, 20)
    """
    return tuple(min(int(value * factor), 255) for value in colour)


# === Objects: one function a class, all with the same arguments ===


def ball(sketch, rng, main, accent):
    """Draws a ball: wedges, a band, or seams on a disc."""
    sketch.ellipse(0.5, 0.5, 0.5, 0.5, main)
    style = rng.integers(3)
    if style == 0:
        for start in (0, 120, 240):
            wedge = arc(0.5, 0.5, 0.5, 0.5, start, start + 60)
            sketch.polygon([(0.5, 0.5), *wedge], accent)
        sketch.ellipse(0.5, 0.5, 0.08, 0.08, main)
    elif style == 1:
        upper, lower = rng.uniform(15, 30), rng.uniform(15, 30)
        right = arc(0.5, 0.5, 0.5, 0.5, -upper, lower)
        left = arc(0.5, 0.5, 0.5, 0.5, 180 - lower, 180 + upper)
        sketch.polygon([*right, *left], accent)
    else:
        for x in (0.0, 1.0):
            bend = (-42, 42) if x == 0 else (138, 222)
            sketch.stroke(arc(x, 0.5, 0.36, 0.6, *bend), 0.05, accent)
        sketch.stroke([(0.04, 0.5), (0.96, 0.5)], 0.05, accent)


def bird(sketch, rng, main, accent):
    """Draws a bird, in flight or perched."""
    wing = shade(main, 0.72)
    if rng.random() < 0.5:
        tip = rng.uniform(-0.1, 0.12)
        sketch.polygon([(0.4, 0.48), (0.56, tip + 0.08), (0.62, 0.5)], wing)
        sketch.polygon([(0.2, 0.55), (-0.05, 0.42), (-0.05, 0.68)], wing)
        sketch.ellipse(0.45, 0.55, 0.29, 0.14, main)
        sketch.ellipse(0.76, 0.46, 0.12, 0.11, main)
        sketch.polygon([(0.3, 0.52), (0.26, tip), (0.58, 0.54)], wing)
    else:
        sketch.polygon([(0.25, 0.5), (-0.1, 0.76), (0.02, 0.84)], wing)
        for x in (0.42, 0.54):
            sketch.stroke([(x, 0.72), (x + 0.02, 0.95)], 0.03, accent)
        sketch.ellipse(0.46, 0.56, 0.29, 0.22, main)
        sketch.ellipse(0.72, 0.33, 0.15, 0.14, main)
        sketch.polygon(
            [(0.56, 0.46), (0.3, 0.46), (0.12, 0.7), (0.48, 0.66)], wing
        )
    top, left = sketch.polygons[-2][0].min(axis=0)[1], 0.84
    sketch.polygon(
        [(left, top + 0.07), (left + 0.2, top + 0.13), (left, top + 0.19)],
        accent,
    )
    sketch.ellipse(0.77, top + 0.09, 0.028, 0.028, DARK)


def boat(sketch, rng, main, accent):
    """Draws a boat, with sails or with a cabin and a funnel."""
    if rng.random() < 0.7:
        mast = rng.uniform(0.42, 0.56)
        sketch.stroke([(mast, 0.02), (mast, 0.8)], 0.035, WOOD)
        sketch.polygon(
            [(mast + 0.04, 0.05), (mast + 0.04, 0.7), (0.97, 0.7)], accent
        )
        if rng.random() < 0.7:
            sketch.polygon(
                [(mast - 0.04, 0.2), (mast - 0.04, 0.7), (0.1, 0.7)],
                shade(accent, 0.85),
            )
    else:
        sketch.box(0.56, 0.28, 0.7, 0.55, shade(main, 0.7))
        sketch.box(0.56, 0.34, 0.7, 0.42, accent)
        sketch.box(0.25, 0.52, 0.8, 0.8, accent)
        for x in (0.35, 0.5, 0.65):
            sketch.ellipse(x, 0.64, 0.045, 0.045, DARK)
    sketch.polygon([(0, 0.75), (1, 0.75), (0.82, 1), (0.16, 1)], main)
    sketch.box(0.03, 0.75, 0.97, 0.8, shade(main, 0.65))


def car(sketch, rng, main, accent):
    """Draws a car from the side, a saloon or a van."""
    if rng.random() < 0.65:
        roof = [(0.2, 0.3), (0.33, 0.04), (0.65, 0.04), (0.8, 0.3)]
        panes = [
            [(0.28, 0.29), (0.37, 0.1), (0.48, 0.1), (0.48, 0.29)],
            [(0.52, 0.29), (0.52, 0.1), (0.62, 0.1), (0.72, 0.29)],
        ]
    else:
        roof = [(0.03, 0.3), (0.05, 0.0), (0.7, 0.0), (0.83, 0.3)]
        panes = [
            [(0.1, 0.26), (0.1, 0.07), (0.42, 0.07), (0.42, 0.26)],
            [(0.48, 0.26), (0.48, 0.07), (0.67, 0.07), (0.75, 0.26)],
        ]
    sketch.polygon(roof, main)
    for pane in panes:
        sketch.polygon(pane, GLASS)
    sketch.polygon(
        [(0, 0.32), (0.05, 0.27), (0.85, 0.27), (1, 0.36), (1, 0.5), (0, 0.5)],
        main,
    )
    sketch.box(0.0, 0.43, 1.0, 0.5, shade(main, 0.7))
    sketch.box(0.94, 0.34, 1.0, 0.41, (250, 236, 160))
    for x in (0.23, 0.76):
        sketch.ellipse(x, 0.5, 0.12, 0.12, DARK)
        sketch.ellipse(x, 0.5, 0.055, 0.055, accent)


def cloud(sketch, rng, main, accent):
    """Draws a cloud: puffs over a flat base."""
    num_puffs = rng.integers(3, 6)
    centres = np.linspace(0.2, 0.8, num_puffs)
    heights = rng.uniform(0.12, 0.26, num_puffs)
    sketch.ellipse(0.5, 0.52, 0.5, 0.12, shade(main, 0.88))
    for x, height in zip(centres, heights, strict=True):
        sketch.ellipse(x, 0.46, 0.2, height, main)
    for x, height in zip(centres, heights, strict=True):
        sketch.ellipse(
            x - 0.02, 0.44 - height * 0.25, 0.12, height * 0.6, accent
        )


def fish(sketch, rng, main, accent):
    """Draws a fish from the side."""
    depth = rng.uniform(0.17, 0.28)
    sketch.polygon([(0.28, 0.5), (0, 0.28), (0.06, 0.5), (0, 0.72)], accent)
    sketch.polygon(
        [(0.42, 0.54 - depth), (0.5, 0.36 - depth), (0.74, 0.56 - depth)],
        accent,
    )
    sketch.ellipse(0.6, 0.5, 0.4, depth, main)
    if rng.random() < 0.5:
        for x in (0.42, 0.56):
            half = depth * 0.85
            sketch.stroke([(x, 0.5 - half), (x, 0.5 + half)], 0.06, accent)
    sketch.polygon([(0.58, 0.54), (0.44, 0.66), (0.46, 0.5)], shade(main, 0.75))
    sketch.ellipse(0.83, 0.45, 0.05, 0.05, (245, 245, 240))
    sketch.ellipse(0.84, 0.45, 0.026, 0.026, DARK)


def flower(sketch, rng, main, accent):
    """Draws a flower on its stem."""
    sketch.stroke([(0.5, 0.4), (0.48, 1.0)], 0.04, LEAF)
    for side in (-1, 1)[: rng.integers(1, 3)]:
        y = rng.uniform(0.72, 0.85)
        leaf = [(0.49, y + 0.08), (0.49 + side * 0.16, y - 0.1)]
        leaf.append((0.49 + side * 0.24, y))
        sketch.polygon(leaf, LEAF)
    num_petals = rng.integers(5, 9)
    turn = rng.uniform(0, 360)
    for angle in np.radians(turn + 360 * np.arange(num_petals) / num_petals):
        x, y = 0.5 + 0.2 * np.cos(angle), 0.3 + 0.2 * np.sin(angle)
        radius = 0.42 / num_petals + 0.05
        sketch.ellipse(x, y, radius, radius, main)
    sketch.ellipse(0.5, 0.3, 0.12, 0.12, accent)


def house(sketch, rng, main, accent):
    """Draws a house: walls, a roof, a door, one or two windows."""
    if rng.random() < 0.6:
        sketch.box(0.68, 0.06, 0.8, 0.4, shade(accent, 0.8))
    ridge = rng.uniform(0.0, 0.14)
    sketch.box(0.1, 0.42, 0.9, 1.0, main)
    sketch.polygon([(0, 0.46), (0.5, ridge), (1, 0.46)], accent)
    door = rng.choice([0.18, 0.42, 0.64])
    sketch.box(door, 0.66, door + 0.17, 1.0, WOOD)
    for x in (0.18, 0.42, 0.64):
        if x != door and rng.random() < 0.8:
            sketch.box(x, 0.56, x + 0.18, 0.76, GLASS)
            sketch.stroke([(x + 0.09, 0.56), (x + 0.09, 0.76)], 0.02, DARK)


def kite(sketch, rng, main, accent):
    """Draws a kite with its crossed sticks and a tail with bows."""
    swing = rng.uniform(-0.1, 0.1)
    tail = [(0.36, 0.6), (0.36 + swing, 0.72), (0.4 - swing, 0.85)]
    tail.append((0.36 + swing, 1.0))
    sketch.stroke(tail, 0.02, DARK)
    for x, y in tail[1:]:
        for side in (-1, 1):
            bow = [(x, y), (x + side * 0.09, y - 0.05)]
            bow.append((x + side * 0.09, y + 0.05))
            sketch.polygon(bow, accent)
    top, right, bottom, left = (
        (0.36, 0),
        (0.7, 0.25),
        (0.36, 0.62),
        (0.02, 0.25),
    )
    sketch.polygon([top, right, bottom, left], main)
    sketch.polygon([top, right, (0.36, 0.25)], accent)
    sketch.polygon([bottom, left, (0.36, 0.25)], accent)
    sketch.stroke([top, bottom], 0.02, DARK)
    sketch.stroke([left, right], 0.02, DARK)


def lamp(sketch, rng, main, accent):
    """Draws a street lamp, hanging from an arm or a lantern on a pole."""
    if rng.random() < 0.5:
        arm = [(0.2, 1.0), (0.2, 0.12), (0.3, 0.05), (0.54, 0.05)]
        sketch.stroke(arm, 0.06, main)
        sketch.ellipse(0.58, 0.23, 0.13, 0.12, accent)
        hood = [(0.5, 0.02), (0.66, 0.02), (0.82, 0.22), (0.34, 0.22)]
        sketch.polygon(hood, main)
        sketch.box(0.08, 0.92, 0.32, 1.0, main)
    else:
        sketch.stroke([(0.3, 1.0), (0.3, 0.4)], 0.07, main)
        glass = [(0.12, 0.12), (0.48, 0.12), (0.4, 0.42), (0.2, 0.42)]
        sketch.polygon(glass, accent)
        sketch.stroke([(0.3, 0.12), (0.3, 0.42)], 0.03, main)
        sketch.polygon([(0.05, 0.13), (0.3, 0.0), (0.55, 0.13)], main)
        sketch.box(0.17, 0.41, 0.43, 0.46, main)
        sketch.box(0.16, 0.92, 0.44, 1.0, main)


def moon(sketch, rng, main, accent):
    """Draws a crescent moon, thin to nearly half."""
    outer = arc(0.5, 0.5, 0.5, 0.5, 90, 270)
    inner = arc(0.5, 0.5, rng.uniform(0.12, 0.34), 0.5, 270, 90)
    sketch.polygon([*outer, *inner], main)
    sketch.ellipse(0.1, 0.45, 0.035, 0.05, accent)
    sketch.ellipse(0.19, 0.66, 0.03, 0.03, accent)


def person(sketch, rng, main, accent):
    """Draws a person, in trousers or in a dress, arms up or down."""
    skin = SKIN[rng.integers(len(SKIN))]
    spread = rng.uniform(0.05, 0.13)
    dress = rng.random() < 0.4
    for side in (-1, 1):
        leg = [(0.4 + side * 0.05, 0.6), (0.4 + side * spread, 0.97)]
        sketch.stroke(leg, 0.06 if dress else 0.085, skin if dress else accent)
        lift = rng.choice([0.1, 0.28, 0.56])
        arm = [(0.4 + side * 0.1, 0.31), (0.4 + side * 0.26, lift)]
        sketch.stroke(arm, 0.055, main)
        sketch.ellipse(*arm[1], 0.035, 0.035, skin)
    hem = 0.2 if dress else 0.1
    torso = [(0.28, 0.26), (0.52, 0.26), (0.4 + hem, 0.64), (0.4 - hem, 0.64)]
    sketch.polygon(torso, main)
    sketch.ellipse(0.4, 0.11, 0.11, 0.12, shade(skin, 0.4))
    sketch.ellipse(0.4, 0.14, 0.09, 0.1, skin)


def star(sketch, rng, main, accent):
    """Draws a star with five points, seldom six."""
    num_points = 5 if rng.random() < 0.8 else 6
    inner = rng.uniform(0.18, 0.25)
    for scale, colour in ((1.0, main), (0.45, accent)):
        radii = scale * np.tile([0.5, inner], num_points)
        angles = np.radians(-90 + 180 * np.arange(2 * num_points) / num_points)
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        sketch.polygon(0.5 + radii[:, None] * points, colour)


def sun(sketch, rng, main, accent):
    """Draws a disc with rays around it."""
    num_rays = rng.integers(7, 13)
    disc = rng.uniform(0.24, 0.32)
    width = rng.uniform(0.25, 0.5) * 2 * np.pi / num_rays
    for angle in 2 * np.pi * np.arange(num_rays) / num_rays:
        ends = [(angle - width, disc), (angle, 0.5), (angle + width, disc)]
        ray = [
            (0.5 + radius * np.cos(turn), 0.5 + radius * np.sin(turn))
            for turn, radius in ends
        ]
        sketch.polygon(ray, accent)
    sketch.ellipse(0.5, 0.5, disc, disc, main)


def tree(sketch, rng, main, accent):
    """Draws a tree, a conifer or one with a round crown."""
    trunk = rng.uniform(0.05, 0.08)
    sketch.box(0.4 - trunk, 0.55, 0.4 + trunk, 1.0, accent)
    if rng.random() < 0.4:
        for top, width in ((0.42, 0.36), (0.2, 0.29), (0.0, 0.22)):
            tier = [(0.4 - width, top + 0.4), (0.4, top)]
            tier.append((0.4 + width, top + 0.4))
            sketch.polygon(tier, shade(main, 0.8 + 0.4 * (0.42 - top)))
    else:
        for x, y in ((0.24, 0.42), (0.56, 0.42), (0.4, 0.24)):
            x, y = x + rng.uniform(-0.04, 0.04), y + rng.uniform(-0.04, 0.04)
            sketch.ellipse(x, y, 0.23, 0.22, main)
        for _ in range(4):
            x, y = rng.uniform(0.2, 0.6), rng.uniform(0.15, 0.5)
            sketch.ellipse(x, y, 0.06, 0.05, shade(main, 0.82))


def umbrella(sketch, rng, main, accent):
    """Draws an open umbrella with its hooked handle."""
    sketch.stroke([(0.5, 0.02), (0.5, 0.88)], 0.035, DARK)
    sketch.stroke(arc(0.42, 0.88, 0.08, 0.1, 0, 180), 0.035, DARK)
    height = rng.uniform(0.36, 0.48)
    hem = [
        point
        for x in (7 / 8, 5 / 8, 3 / 8, 1 / 8)
        for point in arc(x, 0.52, 1 / 8, 0.07, 0, -180)
    ]
    sketch.polygon([*arc(0.5, 0.52, 0.5, height, -180, 0), *hem], main)
    for x in (1 / 8, 5 / 8):
        panel = [*arc(x + 1 / 8, 0.52, 1 / 8, 0.07, 0, -180)]
        sketch.polygon([(0.5, 0.53 - height), *panel], accent)


# === What is not an object ===


def part(sketch, rng, main, accent):
    """Draws a piece that objects are made of, which is none by itself.

    A wheel, a sail, a canopy without its handle, petals without their stem:
    what a network finds when it looks for one telling detail only.
    """
    style = rng.integers(11)
    if style == 0:  # the car's wheel
        sketch.ellipse(0.5, 0.5, 0.5, 0.5, DARK)
        sketch.ellipse(0.5, 0.5, 0.22, 0.22, accent)
    elif style == 1:  # the boat's sail
        sketch.polygon([(0, 0), (0, 1), (0.5, 1)], main)
    elif style == 2:  # the house's roof
        sketch.polygon([(0, 0.5), (0.5, 0), (1, 0.5)], main)
    elif style == 3:  # the umbrella's canopy
        sketch.polygon(arc(0.5, 0.5, 0.5, 0.45, -180, 0), main)
    elif style == 4:  # its handle, which is also the lamp's arm
        sketch.stroke([(0.5, 0), (0.5, 0.85)], 0.06, DARK)
        sketch.stroke(arc(0.36, 0.85, 0.14, 0.15, 0, 180), 0.06, DARK)
    elif style == 5:  # three of the flower's petals
        for angle in np.radians((0, 60, 120)):
            x, y = 0.5 + 0.3 * np.cos(angle), 0.5 + 0.3 * np.sin(angle)
            sketch.ellipse(x, y, 0.15, 0.15, main)
    elif style == 6:  # the kite's tail
        sketch.stroke(
            [(0.5, 0), (0.4, 0.35), (0.55, 0.7), (0.5, 1)], 0.03, DARK
        )
        for x, y in ((0.4, 0.35), (0.55, 0.7)):
            for side in (-0.14, 0.14):
                bow = [(x, y), (x + side, y - 0.07), (x + side, y + 0.07)]
                sketch.polygon(bow, accent)
    elif style == 7:  # the fish's tail
        sketch.polygon([(0.5, 0.5), (0, 0.1), (0.12, 0.5), (0, 0.9)], main)
    elif style == 8:  # the house's window
        sketch.box(0, 0, 0.8, 0.9, main)
        sketch.box(0.08, 0.08, 0.36, 0.82, GLASS)
        sketch.box(0.44, 0.08, 0.72, 0.82, GLASS)
    elif style == 9:  # a few of the sun's rays
        for angle in np.radians((200, 240, 280, 320)):
            ray = [
                (np.cos(angle - 0.15), np.sin(angle - 0.15)),
                (1.6 * np.cos(angle), 1.6 * np.sin(angle)),
                (np.cos(angle + 0.15), np.sin(angle + 0.15)),
            ]
            sketch.polygon(ray, main)
    else:  # the tree's trunk, with a branch
        sketch.box(0.4, 0, 0.56, 1, accent)
        sketch.stroke([(0.48, 0.5), (0.78, 0.2)], 0.07, accent)


def background(rng, scene, size):
    """Paints the empty stage of a scene.

    Args:
        rng: `np.random.Generator`.
        scene: str. "street", "garden", "sea", "sky" or "night".
        size: int. Height and width, pixels.

    Returns:
        `PIL.Image` of mode RGB.

    Example:

    >>> background(np.random.default_rng(0), "sea", size=64).size
    (64, 64)
    """
    top, bottom = _SKIES[scene][rng.integers(len(_SKIES[scene]))]
    ramp = np.linspace(0, 1, 2 * size)[:, None]
    sky = (1 - ramp) * _jitter(rng, top) + ramp * _jitter(rng, bottom)
    sky = np.broadcast_to(sky[:, None], (2 * size, 2 * size, 3))
    image = Image.fromarray(np.clip(sky, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    _STAGES[scene](draw, rng, 2 * size, 2 * size * rng.uniform(0.45, 0.75))
    return image.reduce(2)


def _jitter(rng, colour, amount=22):
    return np.clip(np.add(colour, rng.normal(0, amount, 3)), 0, 255)


def _paint(rng, colour, amount=22):
    return tuple(_jitter(rng, colour, amount).astype(int).tolist())


def _ridge(draw, rng, size, base, amplitude, colour):
    """Fills everything below a wavy line."""
    x = np.linspace(0, size, 17)
    phase, waves = rng.uniform(0, 6.3), rng.uniform(0.5, 2)
    y = base + amplitude * np.sin(phase + waves * 6.3 * x / size)
    line = np.stack([x, y], axis=1).ravel().tolist()
    draw.polygon([*line, size, size, 0, size], fill=colour)


def _skyline(draw, rng, size, horizon, colour, lights):
    """Fills blocks of buildings, some of their windows lit."""
    left = 0
    while left < size:
        right = left + int(rng.uniform(0.1, 0.25) * size)
        top = int(horizon - rng.uniform(0.05, 0.4) * size)
        wall = _paint(rng, colour, 14)
        draw.rectangle([left, top, right, horizon], fill=wall)
        pane = size // 36
        for x in range(left + pane, right - pane, 3 * pane):
            for y in range(top + pane, int(horizon) - pane, 4 * pane):
                if rng.random() < 0.6:
                    box = [x, y, x + pane, y + 2 * pane]
                    draw.rectangle(box, fill=lights)
        left = right


def _street(draw, rng, size, horizon):
    _skyline(draw, rng, size, horizon, (168, 152, 140), (120, 122, 132))
    pavement, road = _paint(rng, (176, 170, 162)), _paint(rng, (104, 104, 110))
    draw.rectangle([0, horizon, size, size], fill=pavement)
    kerb = horizon + 0.3 * (size - horizon)
    draw.rectangle([0, kerb, size, size], fill=road)
    y = (kerb + size) / 2
    for x in np.arange(rng.uniform(-0.2, 0), 1, 0.24) * size:
        draw.rectangle([x, y, x + 0.12 * size, y + 0.02 * size], fill=pavement)


def _garden(draw, rng, size, horizon):
    far, near = _paint(rng, (120, 160, 110)), _paint(rng, (104, 158, 74))
    _ridge(draw, rng, size, horizon - 0.06 * size, 0.05 * size, far)
    _ridge(draw, rng, size, horizon, 0.02 * size, near)
    blades = rng.uniform((0, horizon), size, (60, 2))
    for (x, y), lean in zip(blades, rng.normal(0, 3, 60), strict=True):
        tip = (x + lean, y - 0.03 * size)
        draw.line([(x, y), tip], fill=_paint(rng, near, 18), width=2)


def _sea(draw, rng, size, horizon):
    water = _paint(rng, (58, 118, 156))
    draw.rectangle([0, horizon, size, size], fill=water)
    for y in np.linspace(horizon + 4, size, 7):
        crest = _paint(rng, (96, 156, 186), 16)
        x = np.linspace(0, size, 33)
        wave = y + 3 * np.sin(rng.uniform(0, 6.3) + x / rng.uniform(6, 14))
        line = np.stack([x, wave], axis=1).ravel().tolist()
        draw.line(line, fill=crest, width=3)
    if rng.random() < 0.4:
        sand = _paint(rng, (220, 200, 150))
        _ridge(draw, rng, size, 0.88 * size, 0.02 * size, sand)


def _sky(draw, rng, size, horizon):
    for _ in range(rng.integers(2, 5)):
        y, thickness = rng.uniform(0, size), rng.uniform(2, 0.06 * size)
        haze = _paint(rng, (186, 206, 226), 12)
        x = rng.uniform(-0.3, 0.6) * size
        draw.polygon(
            [(x, y), (x + 0.6 * size, y - 6), (x + 0.7 * size, y + thickness)],
            fill=haze,
        )
    if rng.random() < 0.6:
        hills = _paint(rng, (126, 150, 136))
        _ridge(draw, rng, size, 0.9 * size, 0.05 * size, hills)


def _night(draw, rng, size, horizon):
    for x, y in rng.uniform(0, (size, horizon), (30, 2)):
        draw.rectangle([x, y, x + 1, y + 1], fill=_paint(rng, (200, 200, 190)))
    if rng.random() < 0.5:
        _skyline(draw, rng, size, horizon, (44, 44, 62), (190, 170, 96))
    else:
        far = _paint(rng, (40, 48, 66), 8)
        _ridge(draw, rng, size, horizon - 0.05 * size, 0.07 * size, far)
    ground = _paint(rng, (36, 44, 48), 8)
    draw.rectangle([0, horizon, size, size], fill=ground)


_SKIES = {  # pairs of colours, at the top and at the bottom
    "street": [((140, 170, 205), (214, 220, 224)), ((178, 180, 186),) * 2],
    "garden": [((118, 170, 222), (206, 226, 236))],
    "sea": [
        ((120, 176, 224), (224, 234, 238)),
        ((232, 160, 110), (250, 214, 160)),
    ],
    "sky": [
        ((84, 146, 214), (190, 216, 238)),
        ((210, 150, 140), (246, 214, 180)),
    ],
    "night": [((14, 18, 44), (52, 52, 92)), ((30, 22, 52), (94, 62, 92))],
}
_STAGES = {
    "street": _street,
    "garden": _garden,
    "sea": _sea,
    "sky": _sky,
    "night": _night,
}
