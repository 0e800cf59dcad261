"""The page of a report says what its sections say, and needs and runs nothing else."""

import base64
import re
from html.parser import HTMLParser

from foreshard.forecast.page import render_page
from foreshard.forecast.sections import Column, Grid, Section, printable

EVIL = "<script>alert(1)</script>\"'&"


class Reader(HTMLParser):
    """Collects texts, tags and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data.strip())


def page_of(text: str) -> str:
    grid = Grid(
        [Column(text, left=True), Column("share", ".1%"), Column("n", ",d")], [[text, 0.5, 1234], ["b", None, 0]]
    )
    marked = Grid(grid.columns, grid.rows, frozenset([1]))
    section = Section(text, [text], [(text, text)], marked, ["calibration", "missing"], [text])
    return render_page(text, text, [section], {"calibration": b"\x89PNG", "unused": b"?"})


def test_all_that_is_said_is_on_the_page_as_text():
    read = Reader(page_of(EVIL))
    assert read.texts.count(EVIL) == 10
    assert {"50.0%", "1,234", "-"} <= set(read.texts)
    assert "script" not in {tag for tag, _ in read.tags}
    rows = [attributes for tag, attributes in read.tags if tag == "tr"]
    assert [row.get("class") for row in rows] == [None, None, "marked"]


def test_the_page_loads_nothing():
    page = page_of("x")
    read = Reader(page)
    images = [attributes["src"] for tag, attributes in read.tags if tag == "img"]
    assert images == ["data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()]
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in read.tags}
    assert not re.search(r"https?:|//|@import|url\(", page.replace("<!doctype", ""))
    policy = next(attributes["content"] for tag, attributes in read.tags if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_every_image_says_what_it_shows():
    (image,) = [attributes for tag, attributes in Reader(page_of("x")).tags if tag == "img"]
    assert "Calibration" in image["alt"]


def test_names_are_shown_without_control_characters_and_cut_in_the_middle():
    assert printable("a\x1b[31m\n") == "a\\x1b[31m\\n"
    assert printable("猫") == "猫"
    assert printable(7) == "7"
    cut = printable("a" * 50 + "b" * 50)
    assert len(cut) == 60
    assert cut.startswith("a" * 20 + "...")
    assert cut.endswith("b" * 37)
