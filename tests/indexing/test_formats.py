"""Documents of every format become sections with their headings; odd documents keep their words."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import pytest

from shelflist.core.errors import InvalidInput
from shelflist.indexing.formats import Parsed, parse


def _paths(parsed: Parsed) -> list[str]:
    return [" > ".join(section.path) for section in parsed.sections]


def _all_text(parsed: Parsed) -> str:
    return "\n".join(section.text for section in parsed.sections)


def test_markdown_headings_of_both_kinds_open_sections() -> None:
    parsed = parse(
        "before\n\n# Guide\n\nintro\n\nKeys\n----\n\nrotate\n\n### Old *keys* `k1`\n\ndrop\n\n## End #\n\nbye\n"
    )
    assert _paths(parsed) == ["", "Guide", "Guide > Keys", "Guide > Keys > Old keys k1", "Guide > End"]
    assert [section.text for section in parsed.sections] == ["before", "intro", "rotate", "drop", "bye"]
    assert parsed.title == "Guide"


def test_markdown_hashes_in_code_are_not_headings() -> None:
    parsed = parse("# Real\n\n```sh\n# fenced\n```\n\n    # indented\n\n> # quoted\n\n~~~\n## tilde\n~~~\n")
    assert _paths(parsed) == ["Real"]
    assert all(word in parsed.sections[0].text for word in ("# fenced", "# indented", "# quoted", "## tilde"))


def test_a_bare_heading_is_kept_only_where_no_deeper_one_carries_it() -> None:
    parsed = parse("# Top\n\n## Empty\n\n## Full\n\ntext\n\n## Last\n")
    assert _paths(parsed) == ["Top > Empty", "Top > Full", "Top > Last"]
    assert [section.text for section in parsed.sections] == ["", "text", ""]


def test_heading_markup_and_anchors_are_dropped() -> None:
    parsed = parse('# Using [links](u) &amp; more<a name="x"></a> {#using}\n\ntext\n')
    assert _paths(parsed) == ["Using links & more"]


def test_comments_are_not_text_but_other_html_is() -> None:
    parsed = parse("# A\n\n<!-- a licence\n\nof two lines -->\n\n<div>kept</div>\n")
    assert parsed.sections[0].text.strip() == "<div>kept</div>"


def test_front_matter_becomes_metadata_in_plain_values() -> None:
    parsed = parse(
        "---\ntitle: The guide\ntags: [api, keys]\ndate: 2023-05-06\nat: 2023-05-06T07:08:09+02:00\n"
        "naive: 2023-05-06 07:08:09\n"
        "n: 3\nnested: {a: [1, 2]}\nms.date: x\ninf: .inf\n---\n# Heading\n\ntext\n"
    )
    assert parsed.metadata == {
        "title": "The guide",
        "tags": ["api", "keys"],
        "date": "2023-05-06T00:00:00+00:00",
        "at": "2023-05-06T07:08:09+02:00",
        "naive": "2023-05-06T07:08:09",
        "n": 3,
        "nested": {"a": [1, 2]},
        "ms.date": "x",
        "inf": "inf",
    }
    assert parsed.title == "The guide"
    assert "api" not in _all_text(parsed)


@pytest.mark.parametrize(
    "block",
    ["a: b: c", "x: [1", "d: 2023-99-99", "a: &a [*a]", "a: !!python/object:os.system x"],
    ids=["colons", "open list", "impossible date", "recursion", "tag"],
)
def test_bad_front_matter_is_kept_as_text_with_a_warning(block: str) -> None:
    parsed = parse(f"---\n{block}\n---\n# Heading\n\ntext\n")
    assert parsed.metadata == {}
    assert len(parsed.warnings) == 1
    assert _paths(parsed) == ["", "Heading"]
    assert block in parsed.sections[0].text


@pytest.mark.parametrize(("block", "line"), [("a: b: c", 2), ("a: 1\nb: 2\nc: d: e", 4)])
def test_a_warning_of_front_matter_counts_lines_as_the_file_does(block: str, line: int) -> None:
    (warning,) = parse(f"---\n{block}\n---\ntext\n").warnings
    assert re.findall(r"line (\d+)", warning) == [str(line)]


def test_an_alias_bomb_is_refused_in_bounded_work() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    parsed = parse("---\n" + "\n".join(lines) + "\n---\ntext\n")
    assert parsed.metadata == {}
    assert "too many values" in parsed.warnings[0]


def test_a_leading_rule_is_not_front_matter() -> None:
    parsed = parse("---\n\njust text\n\n---\n\nmore\n")
    assert parsed.metadata == {} and parsed.warnings == []
    assert "just text" in _all_text(parsed) and "more" in _all_text(parsed)


def test_line_ends_and_byte_order_mark_make_no_difference() -> None:
    text = "---\na: 1\n---\n# H\n\ntext\n"
    assert parse("\ufeff" + text.replace("\n", "\r\n")) == parse(text)


@pytest.mark.parametrize(
    ("written", "title"),
    [
        ("1984", "1984"),
        ("007", "007"),
        ("1.10", "1.10"),
        ("2024-05-01", "2024-05-01"),
        ("2024-05-01 10:00:00", "2024-05-01 10:00:00"),
        ("yes", "yes"),
        ("'1984'", "1984"),
        ("~", None),
        ("[1, 2]", None),
    ],
)
def test_a_title_is_text_as_it_was_written(written: str, title: str | None) -> None:
    parsed = parse(f"---\nyear: 1984\nday: 2024-05-01\ntitle: {written}\n---\nIt was a bright cold day.\n")
    assert parsed.title == title
    assert parsed.metadata["year"] == 1984 and parsed.metadata["day"] == "2024-05-01T00:00:00+00:00"
    if title is not None:
        assert parsed.metadata["title"] == title


def test_a_title_that_is_merged_in_is_text_too() -> None:
    parsed = parse("---\nbase: &base\n  title: 1984\n<<: *base\n---\nText.\n")
    assert (parsed.title, parsed.metadata["base"]) == ("1984", {"title": 1984})


HTML = """<!doctype html><html><head><title>Keys &amp; locks | Site</title><style>p { color: red }</style></head><body>
<nav><a href="/">Home of all</a></nav><script>var secret = 1</script>
<div><header><h1>Keys <em>and</em> locks<a class="headerlink" href="#k">\u00b6</a></h1></header>
<p>Turn   the
key<br>twice.</p><!-- not shown --><p hidden>hidden words</p>
<section><h2>Code</h2><pre><code>def f():
    return <b>1</b>
</code></pre><noscript>enable it</noscript></section></div>
<h2>Table</h2><table><thead><tr><th>Name<th>Size</tr></thead><tr><td>a</td><td><p>1</p></td></tr></table>
<ul><li>one</li><li><p>two</p></li><li></li></ul><h3>Leaf</h3></body></html>"""


def test_html_sections_text_and_title() -> None:
    parsed = parse(HTML, "html")
    assert parsed.title == "Keys & locks | Site"
    assert _paths(parsed) == [
        "Keys and locks",
        "Keys and locks > Code",
        "Keys and locks > Table",
        "Keys and locks > Table > Leaf",
    ]
    texts = [section.text for section in parsed.sections]
    assert texts[0] == "Turn the key\ntwice."
    assert texts[1] == "def f():\n    return 1"
    assert texts[2].split() == ["Name", "|", "Size", "a", "|", "1", "-", "one", "-", "two"]
    assert "Name | Size\na | 1" in texts[2] and "- one\n- two" in texts[2]


@pytest.mark.parametrize(
    "noise", ["Home of all", "secret", "color", "not shown", "enable it", "hidden words", "\u00b6"]
)
def test_html_noise_is_dropped(noise: str) -> None:
    assert noise in HTML
    assert noise not in _all_text(parse(HTML, "html")) + "".join(_paths(parse(HTML, "html")))


def test_html_without_a_title_takes_the_first_heading() -> None:
    assert parse("<h1>A</h1><p>b", "html").title == "A"
    assert parse("<p>b", "html").title is None


def test_html_nested_thousands_deep() -> None:
    parsed = parse("<div>" * 3000 + "deep words", "html")
    assert "deep words" in _all_text(parsed)


RST = """
.. _anchor:

Guide
=====

See :ref:`the keys <keys>`, :class:`~pkg.Key` and *this*.

.. unknown-box:: A caption
   :option: value

   Words in the box.

   .. code-block:: python

       # not a heading
       x = 1

.. code-block:: php
   :nope: 1

   $kept = 1;

.. include:: /etc/hostname

.. raw:: html

   <b>raw words</b>

.. A comment.

Keys
----

===== =====
Name  Size
===== =====
a     1
===== =====

- one
- two

Leaf
~~~~

Other
=====

End.
"""


def test_rst_sections() -> None:
    parsed = parse(RST, "rst")
    assert _paths(parsed) == ["Guide", "Guide > Keys", "Guide > Keys > Leaf", "Other"]
    assert parsed.title == "Guide" and parsed.warnings == []
    assert "Name | Size\na | 1" in parsed.sections[1].text
    assert "- one" in parsed.sections[1].text


def test_rst_unknown_directives_and_roles_keep_their_words() -> None:
    text = parse(RST, "rst").sections[0].text
    for kept in (
        "See the keys, pkg.Key and this.",
        "A caption",
        "Words in the box.",
        "# not a heading\nx = 1",
        "$kept = 1;",
    ):
        assert kept in text
    for dropped in (":ref:", "option", "nope", "code-block", "raw words", "hostname", "comment", "anchor"):
        assert dropped not in text


def test_rst_prints_nothing_and_reads_no_other_file(tmp_path: object) -> None:
    program = textwrap.dedent(
        """
        from shelflist.indexing.formats import parse
        bad = "Title\\n==\\n\\n*open `x\\n\\n.. nope::\\n\\n|sub|_ :bad:`r`\\n\\n"
        bad += "A\\n===\\nB\\n---\\nC\\n~~~\\nD\\n===\\nE\\n^^^\\n\\n=\\n"
        parsed = parse(bad, "rst")
        assert "open" in "".join(section.text for section in parsed.sections)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_rst_that_cannot_be_parsed_is_plain_text() -> None:
    parsed = parse("word " * 50_000, "rst")
    assert _all_text(parsed).split() == ["word"] * 50_000


def test_plain_text_and_code_are_one_section() -> None:
    for format in ("text", "code"):
        parsed = parse("# not a heading\n\n  body\n", format)
        assert _paths(parsed) == [""] and parsed.sections[0].text == "# not a heading\n\n  body\n"
        assert parse(" \n\t", format).sections == []


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"pdf.*markdown"):
        parse("x", "pdf")
