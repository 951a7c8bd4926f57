"""A page: chapters of text, tables and figures. As HTML it is one file that needs no other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dlas.results.tables import is_numeric

if TYPE_CHECKING:
    from jinja2 import Template

_TEMPLATE = Path(__file__).with_name("page.html.j2")
_FIXED = "\N{NO-BREAK SPACE}"
_TOGETHER = re.compile(r"[\d.]+ (?:s|ms|us|ns|KiB)\b|\([^()]* \.\. [^()]*\)")  # what no line may break in
_CODE = re.compile(r"`([^`]+)`")
_MARKUP = re.compile(r"(`[^`]+`)|([\\`*_{}\[\]<>|#])")
LINKED = re.compile(r"#row-([0-9a-f]+)")  # what `href` makes
ID_DIGITS = 8  # of an id that a reader sees; its link and the list of rows have all of it


@dataclass(frozen=True)
class Text:
    """A paragraph; with items, a list below it. What stands between backticks is code."""

    words: str
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """rows: fields in the order of headings. ids: for each row those of the results' rows that it rests on.
    strong: the numbers of the rows that are to be seen first. is_list: whether it is the list of rows that
    all links lead to."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    ids: tuple[tuple[str, ...], ...] = ()
    caption: str = ""
    strong: tuple[int, ...] = ()
    is_list: bool = False

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Of each column, whether it holds numbers."""
        return tuple(map(is_numeric, zip(*self.rows, strict=True))) if self.rows else ()


@dataclass(frozen=True)
class Figure:
    """An SVG; its marks link to `anchor` of their ids. name: that of its file, where it has one."""

    name: str
    svg: str
    caption: str


Part = Text | Table | Figure


@dataclass(frozen=True)
class Chapter:
    title: str
    parts: tuple[Part, ...]

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    """lead: what the page is about, in a sentence or two."""

    title: str
    lead: str
    chapters: tuple[Chapter, ...]


def anchor(ids: Sequence[str]) -> str:
    """Where the list of rows tells of the configuration that these rows are of."""
    return f"row-{ids[0]}"


def href(ids: Sequence[str]) -> str:
    """A link to it."""
    return f"#{anchor(ids)}"


def title_of(ids: Sequence[str], words: str) -> str:
    """What a mark says when it is pointed at."""
    return f"{words}; rows {' '.join(ids)}"


def to_html(page: Page) -> str:
    """One file: styles and figures are inside, and there is no script."""
    listed = {ids[0] for chapter in page.chapters for part in chapter.parts for ids in _listed(part)}
    names = {"anchor": anchor, "href": href, "shown": ID_DIGITS, "listed": listed}
    return _template().render(page=page, kind=lambda part: type(part).__name__, **names)


def to_markdown(page: Page) -> str:
    """Figures are links to NAME.svg beside the file; ids of rows are cut to what tells them apart."""
    return "\n\n".join([f"# {_escaped(page.title)}", _escaped(page.lead), *_chapters(page)]) + "\n"


def figures(page: Page) -> Iterator[Figure]:
    for chapter in page.chapters:
        yield from (part for part in chapter.parts if isinstance(part, Figure))


def _listed(part: Part) -> tuple[tuple[str, ...], ...]:
    return part.ids if isinstance(part, Table) and part.is_list else ()


def _template() -> Template:
    # A tenth of a second that few commands need.
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    engine = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    engine.filters["marked"] = lambda words: Markup(_CODE.sub(r"<code>\1</code>", str(escape(words))))
    engine.filters["fixed"] = lambda words: _TOGETHER.sub(lambda found: found[0].replace(" ", _FIXED), words)
    return engine.from_string(_TEMPLATE.read_text())


def _chapters(page: Page) -> Iterable[str]:
    for chapter in page.chapters:
        yield f"## {_escaped(chapter.title)}"
        yield from map(_part, chapter.parts)


def _part(part: Part) -> str:
    if isinstance(part, Text):
        items = "\n".join(f"- {_escaped(item)}" for item in part.items)
        return "\n\n".join(filter(None, (_escaped(part.words), items)))
    if isinstance(part, Figure):
        return f"![{_escaped(part.caption)}]({part.name}.svg)\n\n*{_escaped(part.caption)}*"
    return _table(part)


def _table(table: Table) -> str:
    headings = [*table.headings, *(["rows"] if table.ids else [])]
    marks = ["---:" if number else ":---" for number in table.numeric or (False,) * len(table.headings)]
    lines = [headings, [*marks, *([":---"] if table.ids else [])]]
    for number, row in enumerate(table.rows):
        fields = [
            f"**{_escaped(field)}**" if number in table.strong and field else _escaped(field) for field in row
        ]
        if table.ids:
            ids = table.ids[number]
            fields.append(" ".join(f"`{each if table.is_list else each[:ID_DIGITS]}`" for each in ids))
        lines.append(fields)
    text = "\n".join(f"| {' | '.join(fields)} |" for fields in lines)
    return f"{text}\n\n*{_escaped(table.caption)}*" if table.caption else text


def _escaped(text: str) -> str:
    """For Markdown; what stands between backticks is code there too."""
    return _MARKUP.sub(lambda found: found[1] or f"\\{found[2]}", text)
