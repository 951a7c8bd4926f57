"""The page as HTML and as Markdown: one file, everything escaped, every link with a place to lead to."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from dlas.results.pages import page
from dlas.results.pages.page import Chapter, Figure, Page, Table, Text

IDS = (("aaaabbbbccccdddd", "1111222233334444"), ("eeeeffff00001111",), ("0123456789abcdef",))
MARKED = f'<svg viewBox="0 0 1 1"><a href="{page.href(IDS[1])}"><title>t</title></a></svg>'
TIMES = Table(
    ("cell", "median"), (("a|b", "1.5 ms (1.2 .. 1.9)"), ("c", "2.5 ms"), ("d", "")), IDS, "On `x`.", (1,)
)
LISTED = Table(("line",), (("a",), ("c",)), IDS[:2], is_list=True)
PAGE = Page(
    "Sweep <b>&",
    "What `invoke report` says.",
    (
        Chapter("Best & worst", (Text("A *star* and `code_x`.", ("one <i>", "two")), TIMES)),
        Chapter("Pictures", (Figure("front", MARKED, "A front."), Text("", ("only a list",)))),
        Chapter("Rows", (LISTED,)),
    ),
)


class Links(HTMLParser):
    """Collects what a page links to, what can be linked to, its text and its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.hrefs: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.hrefs += [found["href"]] if found.get("href") else []  # type: ignore[list-item]
        self.ids += [found["id"]] if found.get("id") else []  # type: ignore[list-item]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_every_link_leads_somewhere_and_ids_are_there_once() -> None:
    found = Links(page.to_html(PAGE))
    assert {href.removeprefix("#") for href in found.hrefs} <= set(found.ids)
    assert len(set(found.ids)) == len(found.ids)
    assert page.href(IDS[0]) in found.hrefs
    # The third row is in no list of rows: it is named, and leads nowhere.
    assert page.href(IDS[2]) not in found.hrefs
    assert IDS[2][0][:8] in found.words


def test_html_needs_no_other_file_and_runs_nothing() -> None:
    html = page.to_html(PAGE)
    assert not {"script", "link", "img", "iframe"} & set(Links(html).tags)
    assert not re.search(r"https?://|@import|url\(", html)


def test_what_rows_say_is_no_markup() -> None:
    found = Links(page.to_html(PAGE))
    assert "Sweep <b>&" in found.words
    assert "one <i>" in found.words
    assert "i" not in found.tags
    assert "code_x" in found.words
    assert "`" not in found.words


def test_numbers_stand_right_and_intervals_in_one_line() -> None:
    html = page.to_html(PAGE)
    assert re.findall(r"<th[^>]*>(?:cell|median)", html) == ["<th>cell", '<th class="n">median']
    assert "1.5\N{NO-BREAK SPACE}ms (1.2\N{NO-BREAK SPACE}..\N{NO-BREAK SPACE}1.9)" in html
    assert html.count('<tr class="strong">') == 1
    assert html.count("<table") == 2


def test_the_list_of_rows_names_all_ids() -> None:
    found = Links(page.to_html(PAGE))
    assert "aaaabbbbccccdddd 1111222233334444" in found.words


def test_markdown_has_the_same_and_links_to_its_figures() -> None:
    lines = page.to_markdown(PAGE).splitlines()
    assert lines[0] == r"# Sweep \<b\>&"
    assert r"A \*star\* and `code_x`." in lines
    assert r"- one \<i\>" in lines
    table = lines[lines.index("| cell | median | rows |") :][:5]
    assert table[1:] == [
        "| :--- | ---: | :--- |",
        r"| a\|b | 1.5 ms (1.2 .. 1.9) | `aaaabbbb` `11112222` |",
        "| **c** | **2.5 ms** | `eeeeffff` |",
        "| d |  | `01234567` |",
    ]
    assert "![A front.](front.svg)" in lines
    assert "| a | `aaaabbbbccccdddd` `1111222233334444` |" in lines
    assert [figure.name for figure in page.figures(PAGE)] == ["front"]


@pytest.mark.parametrize(
    ("field", "is_number"),
    [
        ("1.5", True),
        ("99.4% (98.0% .. 99.9%) of 360", True),
        ("1.234 ms (1.2 .. 1.3*)", True),
        ("-0.3 (-1.2 .. 0.5)", True),
        ("", True),
        ("1 of 5 processes drift", False),
        ("2024-05-01", False),
        ("direct", False),
    ],
)
def test_a_column_of_numbers(field: str, is_number: bool) -> None:
    assert Table(("a",), ((field,),)).numeric == (is_number,)
