"""Markup as a browser would take it apart: tags, texts, styles, what a frame holds."""

from __future__ import annotations

from html.parser import HTMLParser


class Seen(HTMLParser):
    """Tags, attributes and text of some markup; scripts and styles are no text.

    Attributes:
        tags: in their order.
        names: of attributes.
        styles: that stand at elements.
        text: what can be read.
        scripts: what stands in scripts, in their order.
        sheets: what stands in style sheets.
        frames: what frames hold.
        cells: the text of each cell of a table.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.styles: list[str] = []
        self.names: set[str] = set()
        self.text = ""
        self.scripts: list[str] = []
        self.sheets: list[str] = []
        self.frames: list[str] = []
        self.frame: dict[str, str | None] = {}
        self.cells: list[str] = []
        self.in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.names |= set(given)
        self.styles += [value or "" for name, value in attrs if name == "style"]
        if tag == "iframe":
            self.frames.append(given.pop("srcdoc") or "")
            self.frame = given
        lists = {"script": self.scripts, "style": self.sheets, "td": self.cells}
        if tag in lists:
            lists[tag].append("")
        self.in_cell = self.in_cell or tag == "td"

    def handle_data(self, data: str) -> None:
        inside = {"script": self.scripts, "style": self.sheets}.get(self.tags[-1] if self.tags else "")
        if inside is not None and self.cdata_elem:
            inside[-1] += data
            return
        self.text += data
        if self.in_cell:
            self.cells[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag != "td"


def framed(output: str) -> tuple[Seen, Seen]:
    """What stands in a notebook's output beside its frame, and the file in the frame."""
    outside = Seen(output)
    [file] = outside.frames
    return outside, Seen(file)
