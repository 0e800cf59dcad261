"""A report as one HTML page that needs nothing else: no script, no other file, no network."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from foreshard.forecast.sections import Grid, Section

# Nothing may be loaded or run, should a name from a log ever slip through as markup.
_HEAD: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; margin-bottom: 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.15rem; margin: 2rem 0 .5rem; padding-top: .6rem; border-top: 1px solid #ddd; }}
p {{ margin: .4rem 0; overflow-wrap: anywhere; }}
.sub, .note {{ color: #595959; font-size: .87rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; font-size: .9rem; }}
th, td {{ text-align: right; padding: .2rem .9rem .2rem 0; white-space: nowrap; }}
th {{ border-bottom: 1px solid #999; font-weight: 600; vertical-align: bottom; }}
td {{ border-bottom: 1px solid #eee; }}
.left {{ text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 5rem; }}
.marked td {{ background: #e8f2f9; font-weight: 600; }}
dl {{ display: grid; grid-template-columns: fit-content(70%) minmax(4rem, 1fr); gap: .15rem 1rem; margin: .5rem 0; }}
dt {{ color: #595959; }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
.pictures {{ display: flex; flex-wrap: wrap; align-items: flex-start; gap: 1rem; }}
img {{ width: 30rem; max-width: 100%; height: auto; }}
@media print {{ body {{ margin: 0; }} section {{ break-inside: avoid; }} }}
</style>
</head>
<body>
"""

_MARKED: Final = ' class="marked"'

_ALT: Final = {
    "calibration": "Calibration curve: share of chunks accessed against the forecast probability",
    "hit_mass": "Hit mass curve: share of accesses on the chunks kept, by how many are kept",
    "top_chunks": "Accesses of the chunks forecast to be hottest, window by window, and their forecast",
}


def render_page(title: str, subtitle: str, sections: Sequence[Section], pictures: Mapping[str, bytes]) -> str:
    """Return the page.

    Args:
        title: of the page and its heading.
        subtitle: a line below it.
        sections: in order.
        pictures: PNG files by name, embedded where a section names them.
    """
    parts = [
        _HEAD.format(title=escape(title)),
        f"<h1>{escape(title)}</h1>\n",
        f'<p class="sub">{escape(subtitle)}</p>\n',
    ]
    parts += [_section(section, pictures) for section in sections]
    return "".join([*parts, "</body>\n</html>\n"])


def _section(section: Section, pictures: Mapping[str, bytes]) -> str:
    shown = [f"<section>\n<h2>{escape(section.title)}</h2>\n"]
    shown += [f"<p>{escape(text)}</p>\n" for text in section.sentences]
    if section.facts:
        pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n" for name, value in section.facts)
        shown.append(f"<dl>\n{pairs}</dl>\n")
    if section.grid is not None:
        shown.append(_grid(section.grid))
    images = [_image(name, pictures[name]) for name in section.pictures if name in pictures]
    if images:
        shown.append(f'<div class="pictures">\n{"".join(images)}</div>\n')
    shown += [f'<p class="note">{escape(text)}</p>\n' for text in section.notes]
    return "".join([*shown, "</section>\n"])


def _grid(grid: Grid) -> str:
    sides = [' class="left"' if column.left else "" for column in grid.columns]
    heads = "".join(
        f'<th scope="col"{side}>{escape(column.name)}</th>' for side, column in zip(sides, grid.columns, strict=True)
    )
    rows: list[str] = []
    for number, texts in enumerate(grid.texts()):
        cells = "".join(f"<td{side}>{escape(text)}</td>" for side, text in zip(sides, texts, strict=True))
        rows.append(f"<tr{_MARKED if number in grid.marked else ''}>{cells}</tr>\n")
    body = f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table>\n{body}</table></div>\n'


def _image(name: str, raw: bytes) -> str:
    source = base64.b64encode(raw).decode("ascii")
    return f'<img alt="{escape(_ALT.get(name, name))}" src="data:image/png;base64,{source}">\n'
