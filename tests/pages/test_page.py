import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from mixprint.pages.clips import Clip
from mixprint.pages.comparison import Comparison
from mixprint.pages.page import ENVIRONMENT, is_page, write_page

HOSTILE = (
    "\"><b>'</script><script>alert(1)</script>&amp;{{ 7 * 7 }}-->",
    "\x1b[31mred\x07",
    "\u202e\u0627\u0644\u0639",
    "long" * 1000,
)
PARTS = """
{% extends "pages/comparisons.html" %}
{% import "pages/parts.html" as parts %}
{% block content %}
{{ parts.table([text], [[text]]) }}
{{ parts.facts({text: text}) }}
{{ parts.image(content, text) }}
{{ parts.clip(clip) }}
{{ parts.comparison(comparison) }}
{{ parts.bullets([text]) }}
{{ parts.note(text) }}
{{ parts.line_chart([(0, 1.0), (1, 2.0)], text, text) }}
{% endblock %}
"""


class Seen(HTMLParser):
    """What a browser makes of a page: elements, and texts with the values of attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.texts += [value for _, value in attrs if value]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def render(text: str) -> str:
    return ENVIRONMENT.from_string(PARTS).render(
        title=text,
        text=text,
        content=b"png",
        clip=Clip(text, b"flac", text),
        comparison=Comparison(text, text, {text: {text: {"audio": text}}, "b": {text: {}}}),
    )


@pytest.mark.parametrize("text", HOSTILE, ids=["markup", "control", "right-to-left", "long"])
def test_values_are_shown_as_text(text: str) -> None:
    plain, seen = Seen(render("plain")), Seen(render(text))
    assert seen.tags == plain.tags
    told = [each for each in plain.texts if "plain" in each]
    assert len(told) >= 18
    # What is no JSON stands there letter by letter.
    wanted = [each.replace("plain", text) for each in told if not each.startswith("{")]
    assert [each for each in wanted if each not in seen.texts] == []


def test_numbers_and_intervals() -> None:
    rows = [["name", 0.12345, 7, {"value": 0.5, "low": 0.1234, "high": 1.0}]]
    page = ENVIRONMENT.from_string(
        '{% import "pages/parts.html" as parts %}{{ parts.table("abcd", rows) }}'
    ).render(rows=rows)
    cells = [re.sub(r"\s+", " ", cell) for cell in re.findall(r"<td.*?</td>", page, re.DOTALL)]
    assert cells == [
        "<td>name</td>",
        '<td class="number">0.123</td>',
        "<td>7</td>",
        '<td class="number">0.5 <small>0.123 to 1</small></td>',
    ]


def test_a_chart_spans_its_axes() -> None:
    page = ENVIRONMENT.from_string(
        '{% import "pages/parts.html" as parts %}{{ parts.line_chart(points, "x", "y") }}'
    ).render(points=[(0, 0.5), (2, 0.25), (4, 0.0)])
    assert 'points="60.0,20.0 330.0,110.0 600.0,200.0 "' in page


def test_scripts_cannot_read_nan() -> None:
    template = ENVIRONMENT.from_string("{{ value | tojson }}")
    assert template.render(value={"b": 1, "a": "<&>"}) == r'{"b": 1, "a": "\u003c\u0026\u003e"}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        template.render(value=float("nan"))


def test_a_value_that_is_missing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    with pytest.raises(UndefinedError, match="results"):
        write_page(path, "listening/results.html", "title")
    assert not path.exists()


def test_every_template_escapes_and_loads_nothing() -> None:
    names = ENVIRONMENT.list_templates(extensions=["html"])
    assert {"pages/layout.html", "transfer/report/pair.html", "listening/test.html"} <= set(names)
    for name in names:
        ENVIRONMENT.get_template(name)
        text, _, _ = ENVIRONMENT.loader.get_source(ENVIRONMENT, name)
        assert not re.search(r"\bsafe\b|autoescape|https?:", text), name


def test_a_page_is_known_by_its_title(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(ENVIRONMENT.from_string('{% extends "pages/layout.html" %}').render(title="a"))
    assert is_page(path, "a")
    assert not is_page(path, "b")
    assert not is_page(tmp_path / "missing.html", "a")
