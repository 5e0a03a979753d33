"""Write hello-video.json: a paper boat on a paper sea, from ComfyUI's core nodes and no model.

    python tests/programs/hello_video.py > workflows/hello-video.json

How it works, for whoever edits it:

* A *field* is a grey image that grows downwards, bent by a wave profile; "field > level" is water.
  The profile is a few noisy pixels scaled up, so the seed decides the sea.
* Everything is painted once, as still images twice as large as the film, wider than the frame by
  one wave period, then scaled down, which smooths the edges.
* A *slide* turns a still into a film by doubling: two windows of the still, side by side, make 2
  frames; two windows of those make 4; six doublings make 64. The shift over 64 frames is one period
  of the wave, so the film loops without a seam.
* The boat's outline is three inequalities between the distance to its middle and its own field, so
  it heaves and tilts with the water that passes under it.
"""

# ruff: noqa: T201 - a program that prints, beside the data it makes

from __future__ import annotations

import json
from typing import Any

Link = list[Any]

FRAMES = 64
SPEED = 2  # pixels a frame
WIDTH, HEIGHT = 512, 288
WIDE = WIDTH + SPEED * FRAMES  # a still: the frame and one period
ROW, ROWS = 96, 3  # height and number of the painted waves: back, front, middle
STRIP = 8  # height of the profile that goes with them, for the boat
TALL = ROW * ROWS + STRIP
INSET = 10  # cut off each row's top, where its neighbour's shadow falls
BEND = 0.25  # share of the wave profile in a field; the rest is the ramp
SURFACE = 30  # mean water line, from the top of a row
BACK_Y, MIDDLE_Y, FRONT_Y = 176, 208, 244  # the same, in the frame
SKY = 204  # the sky is painted down to here
SUN_X, SUN_Y = 344, 146
BOAT_W, BOAT_X, BOAT_Y = 112, 170, 213
BOAT_LINE = 84  # water line from the top of the boat's picture
BOAT_SPAN = 96  # width of water whose slope tilts the boat
BAND = 124  # above this line nothing moves

PALETTE = {
    "sky_top": 0x2B2A5E,
    "sky_upper": 0x8A4F8F,
    "sky_lower": 0xF08A6C,
    "horizon": 0xFFD9A0,
    "sun": 0xFFF3D0,
    "glow": 0xFFC27A,
    "sea_back": 0xC8617A,
    "sea_middle": 0x8A4684,
    "sea_front": 0x4A3275,
    "shadow": 0x1A1438,
    "paper": 0xFFF8EC,
    "fold": 0xD9C9C4,
}


class Sheet:
    """Collects nodes; each call returns the link to a node's output."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}

    def add(self, class_type: str, title: str, **inputs: Any) -> Link:
        """Add a node."""
        key = str(len(self.nodes) + 1)
        self.nodes[key] = {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}
        return [key, 0]

    def fill(self, title: str, color: int, width: int = 1, height: int = 1) -> Link:
        """Make one colour."""
        return self.add("EmptyImage", title, width=width, height=height, batch_size=1, color=color)

    def join(self, title: str, first: Link, second: Link, direction: str = "right") -> Link:
        """Put two images side by side."""
        return self.add(
            "ImageStitch",
            title,
            image1=first,
            direction=direction,
            match_image_size=False,
            spacing_width=0,
            spacing_color="black",
            image2=second,
        )

    def scale(self, title: str, image: Link, method: str, width: int, height: int) -> Link:
        """Scale to a size."""
        return self.add(
            "ImageScale",
            title,
            image=image,
            upscale_method=method,
            width=width,
            height=height,
            crop="disabled",
        )

    def crop(self, title: str, image: Link, width: int, height: int, x: int, y: int) -> Link:
        """Cut a window out."""
        return self.add("ImageCrop", title, image=image, width=width, height=height, x=x, y=y)

    def blend(
        self, title: str, first: Link, second: Link, share: float, mode: str = "normal"
    ) -> Link:
        """Mix two images, by `share` of the second."""
        return self.add(
            "ImageBlend",
            title,
            image1=first,
            image2=second,
            blend_factor=round(share, 4),
            blend_mode=mode,
        )

    def mask(self, title: str, image: Link) -> Link:
        """Read an image as a mask."""
        return self.add("ImageToMask", title, image=image, channel="red")

    def image(self, title: str, mask: Link) -> Link:
        """Show a mask as an image."""
        return self.add("MaskToImage", title, mask=mask)

    def above(self, title: str, mask: Link, level: float) -> Link:
        """Make a hard mask of where a mask is above `level`."""
        return self.add("ThresholdMask", title, mask=mask, value=round(level, 4))

    def both(self, title: str, first: Link, second: Link, operation: str = "multiply") -> Link:
        """Combine two masks."""
        return self.add(
            "MaskComposite",
            title,
            destination=first,
            source=second,
            x=0,
            y=0,
            operation=operation,
        )

    def paste(
        self, title: str, onto: Link, image: Link, mask: Link | None = None, x: int = 0, y: int = 0
    ) -> Link:
        """Paste an image, through a mask where one is given."""
        more = {} if mask is None else {"mask": mask}
        return self.add(
            "ImageCompositeMasked",
            title,
            destination=onto,
            source=image,
            x=x,
            y=y,
            resize_source=False,
            **more,
        )

    def split(self, title: str, image: Link) -> tuple[Link, Link]:
        """Return the colours and the mask of an RGBA image."""
        link = self.add("SplitImageWithAlpha", title, image=image)
        return link, [link[0], 1]

    def rgba(self, title: str, image: Link, alpha: Link) -> Link:
        """Join colours and a mask."""
        return self.add("JoinImageWithAlpha", title, image=image, alpha=alpha)


def _slide(sheet: Sheet, still: Link, height: int) -> Link:
    """Turn a still into FRAMES frames that move left by SPEED pixels each, by doubling."""
    count, width, film = 1, WIDE, still
    while count < FRAMES:
        shift = SPEED * count
        width -= shift
        count *= 2
        near = sheet.crop(f"window 1 of 2, for {count}", film, width, height, 0, 0)
        far = sheet.crop(f"window 2 of 2, for {count}", film, width, height, shift, 0)
        film = sheet.add("ImageBatch", f"{count} frames", image1=near, image2=far)
    return sheet.add("ImageFromBatch", "frames", image=film, batch_index=0, length=FRAMES)


def _sky(sheet: Sheet, colors: dict[str, Link]) -> Link:
    strip = colors["sky_top"]
    for name in ("sky_upper", "sky_lower", "horizon"):
        strip = sheet.join(f"sky down to {name}", strip, colors[name], "down")
    sky = sheet.scale("sky", strip, "bicubic", WIDTH, SKY)
    dot = sheet.fill("white dot", 0xFFFFFF)
    dot = sheet.paste("dot in the middle", sheet.fill("black", 0, 3, 3), dot, x=1, y=1)
    glow = sheet.scale("round glow", dot, "bicubic", 360, 360)
    # Bicubic scaling undershoots around the dot; blending clips that.
    glow = sheet.mask("glow", sheet.blend("clipped glow", glow, glow, 0.5))
    color = sheet.scale("glow's colour", colors["glow"], "nearest-exact", 360, 360)
    # Nothing can be pasted at y < 0: what would be there is cut.
    top = 180 - SUN_Y
    color = sheet.crop("glow's colour, cut", color, 360, SKY, 0, top)
    glow = sheet.add("CropMask", "glow, cut", mask=glow, x=0, y=top, width=360, height=SKY)
    sky = sheet.paste("sky with glow", sky, color, glow, SUN_X - 180, 0)
    disc = sheet.scale("wide glow", dot, "bicubic", 440, 440)
    disc = sheet.above("hard disc", sheet.mask("disc", disc), 0.5)
    disc = sheet.scale("smooth disc", sheet.image("disc, image", disc), "area", 220, 220)
    disc = sheet.mask("sun's shape", disc)
    return sheet.paste("sky with sun", sky, colors["sun"], disc, SUN_X - 110, SUN_Y - 110)


def _ramp(sheet: Sheet) -> Link:
    """Return an image that grows from 0 to 1 downwards, one row high."""
    dark, bright = sheet.fill("dark end", 0), sheet.fill("bright end", 0xFFFFFF)
    ramp = sheet.join("dark above bright", dark, bright, "down")
    # Bilinear scaling is straight between the two centres only: keep that half.
    ramp = sheet.scale("ramp and ends", ramp, "bilinear", 2, 4 * ROW)
    return sheet.crop("ramp", ramp, 2, 2 * ROW, 0, ROW)


def _profiles(sheet: Sheet) -> tuple[Link, Link]:
    """Return the wave profiles of the rows, one above the other, and the middle one."""
    low, high = sheet.fill("trough", 0x404040), sheet.fill("crest", 0xC0C0C0)
    strip = sheet.join("trough, crest", low, high)
    strip = sheet.join("two waves", strip, strip)
    strip = sheet.add("ImageAddNoise", "noise", image=strip, seed=7, strength=0.12)
    swell = sheet.crop("one wave", strip, 2, 1, 0, 0)
    for count in (4, 8, 16):
        strip = sheet.join(f"{count} waves", strip, strip)
        swell = sheet.join(f"{count // 2} long waves", swell, swell)
    # One loop moves two short waves, or one long one: 4 and 2 pixels of the strips.
    loop = 2 * SPEED * FRAMES
    short = sheet.scale("short waves", strip, "bicubic", 8 * loop, 2 * ROW)
    short = sheet.crop("short waves, cut", short, 2 * WIDE, 2 * ROW, loop, 0)
    swell = sheet.scale("long waves", swell, "bicubic", 8 * loop, 2 * ROW)
    swell = sheet.crop("long waves, cut", swell, 2 * WIDE, 2 * ROW, loop, 0)
    rows = sheet.join("profiles of back and front", short, short, "down")
    return sheet.join("profiles", rows, swell, "down"), swell


def _level(line: float) -> float:
    """Return a field's value `line` pixels below its top, for a mean profile."""
    return (1 - BEND) * line / ROW + BEND * 0.5


def _sea(sheet: Sheet, colors: dict[str, Link], ramp: Link) -> Link:
    """Paint the rows as RGBA in the film's size, with the middle profile in a strip below them."""
    width, height = 2 * WIDE, 2 * ROW * ROWS
    profiles, swell = _profiles(sheet)
    ramp = sheet.scale("wide ramp", ramp, "bilinear", width, 2 * ROW)
    field = sheet.join("two ramps", ramp, ramp, "down")
    field = sheet.join("three ramps", field, ramp, "down")
    field = sheet.mask("field", sheet.blend("bent ramps", field, profiles, BEND))
    deep = sheet.join("back, front", colors["sea_back"], colors["sea_front"], "down")
    deep = sheet.join("back, front, middle", deep, colors["sea_middle"], "down")
    light = sheet.scale("light", colors["glow"], "nearest-exact", 1, ROWS)
    edge = sheet.blend("edges", deep, light, 0.6)
    deep = sheet.scale("sea", deep, "nearest-exact", width, height)
    edge = sheet.scale("sea's edges", edge, "nearest-exact", width, height)
    dark = sheet.scale("dark", colors["shadow"], "nearest-exact", width, height)
    body = sheet.above("water", field, _level(SURFACE))
    paint = sheet.paste("on dark", dark, edge, body)
    paint = sheet.paste(
        "below the edge", paint, deep, sheet.above("sheet 1", field, _level(SURFACE + 2))
    )
    for number in (2, 3):
        deep = sheet.blend(f"colour of sheet {number}", deep, dark, 0.16)
        mask = sheet.above(f"sheet {number}", field, _level(SURFACE + 15 * (number - 1)))
        paint = sheet.paste(f"with sheet {number}", paint, deep, mask)
    soft = sheet.image("water, image", body)
    soft = sheet.scale("coarse", soft, "area", width // 16, height // 16)
    soft = sheet.scale("soft", soft, "bilinear", width, height)
    faint = sheet.add("SolidMask", "shadow's strength", value=0.4, width=width, height=height)
    faint = sheet.both("shadow", faint, sheet.mask("soft edge", soft))
    alpha = sheet.both("water and shadow", body, faint, "add")
    paint = sheet.rgba("sea with alpha", paint, alpha)
    swell = sheet.crop("profile for the boat", swell, width, 2 * STRIP, 0, 0)
    return sheet.scale(
        "sea, film size", sheet.join("sea and profile", paint, swell, "down"), "area", WIDE, TALL
    )


def _boat(sheet: Sheet, colors: dict[str, Link], ramp: Link, profile: Link) -> Link:
    """Return RGBA frames of the boat, from the frames of the profile under it."""
    width, height = 2 * BOAT_W, 2 * ROW
    # Two samples, left and right of the boat, are drawn out to its width: so it tilts.
    water = sheet.scale("left and right of the boat", profile, "bilinear", 2, 1)
    water = sheet.scale("line through both", water, "bilinear", 2 * width, height)
    water = sheet.crop("line under the boat", water, width, height, width // 2, 0)
    ramp = sheet.scale("boat's ramp", ramp, "bilinear", width, height)
    down = sheet.blend("boat's field", water, ramp, 1 - BEND)
    up = sheet.add("ImageInvert", "boat's field, upwards", image=down)
    side = sheet.fill("side", 0xFFFFFF)
    away = sheet.join("side, middle", side, sheet.fill("middle", 0))
    away = sheet.join("side, middle, side", away, side)
    away = sheet.scale("distance and ends", away, "bilinear", 480, height)
    away = sheet.crop("distance", away, width, height, (480 - width) // 2, 0)
    level = _level(BOAT_LINE)

    def cut(name: str, a: float, b: float, limit: float) -> Link:
        """Mask of a*|x| + b*y < limit: film pixels, y downwards from the water line."""
        weight_x, weight_y = a * 80, abs(b) * ROW / (1 - BEND)
        field, zero = (down, level) if b > 0 else (up, 1 - level)
        total = weight_x + weight_y
        mixed = sheet.blend(f"{name}: sum", field, away, weight_x / total)
        bound = (limit + weight_y * zero) / total
        outside = sheet.above(f"{name}: outside", sheet.mask(f"{name}: value", mixed), bound)
        return sheet.add("InvertMask", name, mask=outside)

    sail = cut("sail", 1, -0.46, 31)
    hull = sheet.both("hull", cut("sides", 1, 0.9, 33), cut("top", 0, -1, 15))
    half = sheet.join("paper and fold", colors["paper"], colors["fold"])
    half = sheet.scale("folded paper", half, "nearest-exact", width, height)
    half = sheet.add("RepeatImageBatch", "folded paper, film", image=half, amount=FRAMES)
    plain = sheet.scale("plain paper", colors["paper"], "nearest-exact", width, height)
    paint = sheet.paste("hull before sail", half, plain, hull)
    paint = sheet.rgba("boat with alpha", paint, sheet.both("outline", sail, hull, "or"))
    return sheet.scale("boat, film size", paint, "area", BOAT_W, ROW)


def build() -> dict[str, dict[str, Any]]:
    """Return the graph."""
    sheet = Sheet()
    colors = {
        name: sheet.fill(f"{name} color", color) for name, color in PALETTE.items() if name != "sun"
    }
    colors["sun"] = sheet.fill("sun color", PALETTE["sun"], 220, 220)
    sky = _sky(sheet, colors)
    ramp = _ramp(sheet)
    film = _slide(sheet, _sea(sheet, colors, ramp), TALL)
    left = BOAT_X - BOAT_SPAN // 2
    profile = sheet.crop("profile at the boat", film, BOAT_SPAN, STRIP, left, TALL - STRIP)
    profile, _ = sheet.split("profile without alpha", profile)
    boat = _boat(sheet, colors, ramp, profile)
    inner = ROW - INSET
    right = sheet.crop("moving left", film, WIDTH, 2 * ROW, 0, 0)
    right = sheet.add("ImageFlip", "moving right", image=right, flip_method="y-axis: horizontally")
    back = sheet.crop("back wave", right, WIDTH, inner, 0, INSET)
    front = sheet.crop("front wave", right, WIDTH * 2 // 3, inner, 0, ROW + INSET)
    front = sheet.scale("front wave, near", front, "bicubic", WIDTH, inner)
    middle = sheet.crop("middle wave", film, WIDTH, inner, 0, 2 * ROW + INSET)
    base = sheet.crop("sky behind the sea", sky, WIDTH, SKY - BAND, 0, BAND)
    base = sheet.join("with room below", base, sheet.fill("room", 0, WIDTH, HEIGHT - SKY), "down")
    film = sheet.add("RepeatImageBatch", "sky, film", image=base, amount=FRAMES)
    for name, image, x, y in (
        ("back wave", back, 0, BACK_Y - SURFACE + INSET),
        ("boat", boat, BOAT_X - BOAT_W // 2, BOAT_Y - BOAT_LINE),
        ("middle wave", middle, 0, MIDDLE_Y - SURFACE + INSET),
        ("front wave", front, 0, FRONT_Y - SURFACE + INSET),
    ):
        paint, alpha = sheet.split(f"{name}, colour and mask", image)
        film = sheet.paste(f"with the {name}", film, paint, alpha, x, y - BAND)
    top = sheet.crop("sky above the sea", sky, WIDTH, BAND, 0, 0)
    film = sheet.join("whole frames", top, film, "down")
    film = sheet.scale("size", film, "area", WIDTH, HEIGHT)
    video = sheet.add("CreateVideo", "video", images=film, fps=24.0)
    saved = {"filename_prefix": "pennyreel/hello", "format": "mp4", "codec": "h264"}
    sheet.add("SaveVideo", "save", video=video, **saved)
    return sheet.nodes


if __name__ == "__main__":
    print(json.dumps(build(), indent=1))
