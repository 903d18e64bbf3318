"""Text that is no filter: refused with the reason, the column, and a caret under the place."""

from __future__ import annotations

import pytest

from shelflist.core.errors import InvalidFilter
from shelflist.core.filters import F, from_text

WRONG = [
    # the caret in the second line stands under the place
    ("", None, "empty"),
    ("  \n ", None, "empty"),
    ("page < 10 and", "             ^", "found the end"),
    ("page", "    ^", "Expected an operator after page, found the end"),
    ("page and title", "     ^", "page == true"),
    ("page 3", "     ^", "Operators: =="),
    ("page not 3", "         ^", "after page not, found 3"),
    ("page <", "      ^", "Expected a value"),
    ("page << 3", "      ^", "Expected a value, found <"),
    ("page == title", "        ^", 'quotes: "title"'),
    ("page == null", "        ^", "exists(field)"),
    ("page == None", "        ^", "exists(field)"),
    ("page in (1, null)", "            ^", "exists(field)"),
    ("null", "^", "exists(field)"),
    ("page is null", "     ^", "exists"),
    ("true", "^", "true alone"),
    ("page == 1 or false", "             ^", "false alone"),
    ('"page" == 3', "          ^", "Expected the name of a field, found 3"),
    ('"page" == "x"', "          ^", "without quotes"),
    ('"page"', "^", "without quotes"),
    ('"a" in "tags"', "       ^", "without quotes"),
    ("3 in 4", "     ^", "name of a field"),
    ("and == 3", "^", "`and`"),
    ('title like "a%"', "      ^", "starts with"),
    ('title startswith "a"', "      ^", "two words"),
    ('title starts "a"', "             ^", "Expected with"),
    ("page between 1", "              ^", "Expected and"),
    ("page between 1 or 5", "               ^", "between 1 and 5"),
    ("page in 3", "        ^", "Expected a list"),
    ("page in (1 2)", "           ^", "Expected , or )"),
    ("page in (1, 2]", "             ^", "Expected , or )"),
    ("page in (1, 2", "        ^", "never closed"),
    ("page in (,)", "         ^", "Expected a value"),
    ("(page == 3", "^", "never closed"),
    ("page == 3)", "         ^", "No parenthesis is open"),
    ("exists(page", "           ^", "Expected )"),
    ('exists("page")', "       ^", "without quotes"),
    ("()", " ^", "name of a field"),
    ("1 < page < 5", "         ^", "between 1 and 5"),
    ("page == 1 page == 2", "          ^", "and, or"),
    ("page == 1 && page == 2", "          ^", "with and"),
    ("page == 1 || page == 2", "          ^", "with or"),
    ("!(page == 1)", "^", "not"),
    ("page.x == 1", "    ^", "without dots"),
    ('{"page": 3}', "^", "JSON"),
    ("page == “x”", "        ^", "straight quotes"),
    ("page == +3", "        ^", None),
    ("page == 1x", "         ^", "quotes"),
    ("page == 2024-01-01", "            ^", None),
    ("page == 1e999", "        ^", "too large"),
    ("page == " + "9" * 500, "        ^", "too long"),
    ('title == "abc', "         ^", "never closed"),
    ('title == "a\\d"', "           ^", "\\\\"),
    ('title == "a\\', "           ^", "no escape"),
    ('title == "\\u12"', "          ^", "four hexadecimal"),
    ('title == "\\ud83d"', "          ^", "half of a character"),
    ("title == 'it''s'", "             ^", "A quote inside text"),
    ("(" * 60 + "page == 1" + ")" * 60, None, "nested more than 50"),
    ("日本 == x", "        ^", "quotes"),
    ("page == 1 or\npage < ", "       ^", "column 8 of line 2"),
    ("page\t\t== x", "          ^"[1:], "quotes"),
]


@pytest.mark.parametrize(("text", "caret", "part"), WRONG, ids=[text[:40] for text, _, _ in WRONG])
def test_refused(text: str, caret: str | None, part: str | None) -> None:
    with pytest.raises(InvalidFilter) as caught:
        from_text(text)
    message = str(caught.value)
    assert part is None or part in message, message
    if caret is not None:
        assert message.splitlines()[-1] == "  " + caret, message


def test_the_column_counts_from_one() -> None:
    with pytest.raises(InvalidFilter, match="at column 9: "):
        from_text("page == x")


def test_a_long_line_is_shown_in_part() -> None:
    with pytest.raises(InvalidFilter) as caught:
        from_text(" or ".join(f"page == {i}" for i in range(500)) + " or page == here or " + "page == 1 or " * 99 + "x")
    _first, line, caret = str(caught.value).splitlines()
    assert len(line) < 120 and line.startswith("  ...") and line.endswith("...")
    assert line[caret.index("^") :].startswith("here")


def test_words_that_are_fields_only_where_a_field_is_expected() -> None:
    assert from_text("exists exists") == F("exists").exists()
    assert from_text("exists(exists)") == F("exists").exists()
    assert from_text("between between 1 and 2") == F("between").between(1, 2)
    assert from_text("contains contains 'with'") == F("contains").contains("with")


def test_int_and_float_stay_apart() -> None:
    assert type(from_text("page == 3").value) is int  # type: ignore[attr-defined]
    assert type(from_text("page == 3.0").value) is float  # type: ignore[attr-defined]
    assert from_text("page == 9007199254740993").value == 2**53 + 1  # type: ignore[attr-defined]


def test_space_is_free() -> None:
    assert from_text(" page<3\n and\ttitle=='a' ") == from_text('page < 3 and title == "a"')
