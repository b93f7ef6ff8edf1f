"""Take the pictures of every view of the page that docs/images holds: at 1440 px, at 390 px, and dark.

    factedit serve gemma3-270m --no-open --out exports --folder docs/results/counterfact-gemma3-270m
    python docs/screenshots.py ADDRESS [--views ask,where] [--out docs/images]

ADDRESS is what `serve` printed. One fact goes its whole way: changed, asked, traced, proven, looked at for damage; then
a puzzle, and an export. Needs Chromium, playwright and pillow.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

IMAGES = Path(__file__).parent / "images"
SIZES = {"": (1440, "light"), "-390": (390, "light"), "-dark": (1440, "dark")}
TALLEST = {1440: 1350, 390: 1500}  # px of a picture; what is below is cut off


def ask(page: Any) -> None:
    """Both models side by side: an edit is on."""
    page.locator("table.top").nth(1).wait_for()


def where(page: Any) -> None:
    """The three maps, and a cell that is pointed at."""
    page.get_by_role("button", name="Trace it").click()
    page.wait_for_selector(".found[aria-busy]", state="detached")
    page.wait_for_selector("table.map")
    page.locator("table.map[data-kind=hidden] td[data-row='3'][data-layer='5']").hover()


def change(page: Any) -> None:
    """An edit, its loss, what it reads and writes."""
    if page.locator(".facts strong").count() == 0:
        page.get_by_role("button", name="Change it").click()
    page.wait_for_selector(".factors table.top")


def proof(page: Any) -> None:
    """The verdict and its rows."""
    page.wait_for_selector(".verdict")


def damage(page: Any) -> None:
    """The panel, the worst fact opened."""
    page.get_by_role("button", name="Ask them before and after").click()
    page.wait_for_selector("button.strip")


def ledger(page: Any) -> None:
    """An export with the commands that serve it."""
    page.locator("#form").select_option("peft")
    page.get_by_role("button", name="Export into").click()
    page.get_by_label("commands that serve it").wait_for()


def compare(page: Any) -> None:
    """Results as a table."""
    page.wait_for_selector("button.number")


def audit(page: Any) -> None:
    """A puzzle, one of whose models is audited."""
    page.get_by_role("button", name="Make the puzzle").click()
    page.get_by_role("button", name="Audit model C").click()
    page.wait_for_selector(".puzzle .verdict")


VIEWS: dict[str, Callable[[Any], None]] = {
    "change": change, "ask": ask, "where": where, "proof": proof, "damage": damage, "compare": compare,
    "audit": audit, "ledger": ledger,
}  # fmt: skip


def take(page: Any, view: str, out: Path) -> None:
    """Take a view's pictures, each of few colours, so that it is small."""
    from PIL import Image

    for suffix, (width, theme) in SIZES.items():
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=theme)
        page.wait_for_timeout(300)
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
        picture = picture.crop((0, 0, picture.width, min(picture.height, TALLEST[width])))
        small = picture.convert("RGB").quantize(255, dither=Image.Dither.NONE)
        small.save(out / f"page-{view}{suffix}.png", optimize=True)
    page.set_viewport_size({"width": 1440, "height": 900})
    page.emulate_media(color_scheme="light")


def main() -> None:
    """Walk through the views."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--views", default=",".join(VIEWS))
    parser.add_argument("--out", type=Path, default=IMAGES)
    asked = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as started:
        page = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
        page.set_default_timeout(600_000)
        page.set_viewport_size({"width": 1440, "height": 900})
        page.goto(asked.address)
        page.wait_for_selector("#model:has-text('layers')")
        for view in asked.views.split(","):
            page.evaluate("hash => { location.hash = hash }", f"#/{view}?")
            page.wait_for_selector(f"nav a[aria-current][href^='#/{view}']")
            VIEWS[view](page)
            take(page, view, asked.out)
            sys.stdout.write(f"{view}\n")


if __name__ == "__main__":
    main()
