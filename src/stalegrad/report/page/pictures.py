"""Figures as pictures in the page itself, as small as they are still sharp."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

_WIDTH = 1200
_SHOWN = 0.6  # of a pixel of the screen, for each of the picture's: screens have up to two of them
_QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """width, height: pixels, by which a browser keeps the place free. uri: all of it, as WebP."""

    uri: str
    width: int
    height: int

    @property
    def shown(self) -> int:
        """The width that it is shown with where there is room, in pixels of the page."""
        return round(_SHOWN * self.width)


def picture(path: Path) -> Picture:
    """The image at `path`, at most 1200 pixels wide."""
    with Image.open(path) as image:
        shown = image.convert("RGB")
    if shown.width > _WIDTH:
        height = round(shown.height * _WIDTH / shown.width)
        shown = shown.resize((_WIDTH, height), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    shown.save(out, "WEBP", quality=_QUALITY, method=4)
    content = base64.b64encode(out.getvalue()).decode("ascii")
    return Picture(f"data:image/webp;base64,{content}", shown.width, shown.height)
