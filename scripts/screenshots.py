"""Pictures of a report for the documentation, taken in headless Chromium; small palette PNGs.

    python -m scripts.screenshots runs/guards/report.html --out docs/images

Writes report-light.png and report-dark.png (the head of the page), report-images.png (the first
items, sharp, under all guards) and report-narrow.png (a phone's width). Nothing is drawn or typed.
"""

import argparse
import io
import json
from pathlib import Path

from PIL import Image

from scripts.browser import Browser, browser

WIDTH, NARROW = 1320, 390
COLOURS = 64
LIMIT = 300_000  # bytes


def small(data: bytes) -> bytes:
    """The PNG with a palette, and with fewer colours until it is small."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    for colours in (COLOURS * 4, COLOURS, COLOURS // 2):
        buffer = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() < LIMIT:
            break
    return buffer.getvalue()


def top(page: Browser, selector: str) -> float:
    """Where an element begins, in pixels from the top of the page."""
    return float(page.run(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().top + scrollY"))


def items(page: Browser, guard: str, count: int) -> bytes:
    """The first items with every picture sharp, of one guard where one is named."""
    page.click(".filters summary")
    if guard:
        page.run(
            f"[...document.querySelectorAll('input[name=g]')].find(i => i.nextSibling.textContent == '{guard}').click()"
        )
    page.run("document.querySelector('#reveal').click()")
    page.run("document.querySelector('.filters details').open = false")
    page.run("document.activeElement.blur(); scrollTo(0, 0)")
    page.run("Promise.all([...document.images].map(image => image.decode()))")
    start = top(page, "#sheets")
    end = float(page.run(f"document.querySelectorAll('.item')[{count - 1}].getBoundingClientRect().bottom + scrollY"))
    return page.picture((0, start, WIDTH, end - start + 12))


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--guard", default="", help="whose pictures are shown; empty: all of them")
    args = parser.parse_args()
    found: dict[str, bytes] = {}
    with browser() as page:
        for name, dark in (("report-light", False), ("report-dark", True)):
            page.view(WIDTH, 1000, dark=dark)
            page.open(args.page)
            found[name] = page.picture((0, 0, WIDTH, top(page, "#cells")))
        page.view(NARROW, 844)
        page.open(args.page)
        found["report-narrow"] = page.picture((0, 0, NARROW, 1400))
        page.view(WIDTH, 1000)
        page.open(args.page)
        found["report-images"] = items(page, args.guard, 2)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, data in found.items():
        path = args.out / f"{name}.png"
        path.write_bytes(small(data))
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
