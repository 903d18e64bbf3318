"""The compiler base: each operator goes to its method, and what a store does not claim or write is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from shelflist.core.errors import UnknownField, UnsupportedFilter
from shelflist.core.fields import Fields, FieldType
from shelflist.core.filters import And, F, Filter, Operator, Or, prepare
from shelflist.core.filters.compiler import FilterCompiler
from shelflist.stores.memory import MemoryStore

FIELDS = Fields({"s": str, "i": int, "l": list[str]})
ALL = MemoryStore.capabilities
METHODS = {
    Operator.EQ: "equal",
    Operator.NE: "not_equal",
    Operator.LT: "less",
    Operator.LE: "less_or_equal",
    Operator.GT: "greater",
    Operator.GE: "greater_or_equal",
    Operator.IN: "is_in",
    Operator.NOT_IN: "not_in",
    Operator.BETWEEN: "between",
    Operator.CONTAINS: "contains",
    Operator.STARTS_WITH: "starts_with",
    Operator.EXISTS: "exists",
}
EXAMPLES: dict[Operator, Filter] = {
    Operator.EQ: F("i") == 1,
    Operator.NE: F("i") != 1,
    Operator.LT: F("i") < 1,
    Operator.LE: F("i") <= 1,
    Operator.GT: F("i") > 1,
    Operator.GE: F("i") >= 1,
    Operator.IN: F("i").is_in([1, 2]),
    Operator.NOT_IN: F("i").not_in([1, 2]),
    Operator.BETWEEN: F("i").between(1, 2),
    Operator.CONTAINS: F("l").contains("a"),
    Operator.STARTS_WITH: F("s").starts_with("a"),
    Operator.EXISTS: F("l").exists(),
}


class Joining(FilterCompiler[str]):
    def everything(self) -> str:
        return "all"

    def nothing(self) -> str:
        return "none"

    def all_of(self, parts: Sequence[str]) -> str:
        return f"({' & '.join(parts)})"

    def any_of(self, parts: Sequence[str]) -> str:
        return f"({' | '.join(parts)})"

    def none_of(self, part: str) -> str:
        return f"!{part}"


def _method(word: str) -> Callable[..., str]:
    def method(self: FilterCompiler[str], name: str, kind: FieldType, value: Any) -> str:
        return f"{word}:{name}:{kind.value}:{value}"

    return method


Complete = type("Complete", (Joining,), {name: _method(name) for name in METHODS.values()})


@pytest.mark.parametrize("operator", Operator)
def test_each_operator_goes_to_its_method(operator: Operator) -> None:
    where = prepare(EXAMPLES[operator], FIELDS)
    assert Complete(FIELDS, ALL).compile(where).startswith(f"{METHODS[operator]}:")


@pytest.mark.parametrize("operator", Operator)
def test_an_operator_that_is_not_claimed_is_refused(operator: Operator) -> None:
    less = replace(ALL, store="small", filter_operators=ALL.filter_operators - {operator})
    compiler = Complete(FIELDS, less)
    for where in (EXAMPLES[operator], (F("i") > 5) & EXAMPLES[operator] | F("i").between(3, 4)):
        with pytest.raises(UnsupportedFilter, match=f"small store has no filter operator '{operator.value}'"):
            compiler.compile(where)
    other = Operator.LT if operator is not Operator.LT else Operator.GT
    assert compiler.compile(EXAMPLES[other])


@pytest.mark.parametrize("operator", Operator)
def test_an_operator_without_a_method_is_refused(operator: Operator) -> None:
    with pytest.raises(UnsupportedFilter, match=f"'{operator.value}'"):
        Joining(FIELDS, ALL).compile(EXAMPLES[operator])
    with pytest.raises(UnsupportedFilter, match=f"Joining store has no filter operator '{operator.value}'"):
        Joining(FIELDS).compile(EXAMPLES[operator])


def test_trees() -> None:
    compiler = Complete(FIELDS)
    where = And((F("i") > 1, Or((~(F("i") < 2), F("l").exists()))))
    assert compiler.compile(where) == "(greater:i:int:1 & (!less:i:int:2 | exists:l:list[str]:None))"
    assert compiler.compile(And(())) == "all"
    assert compiler.compile(Or(())) == "none"


def test_fields_are_looked_up() -> None:
    with pytest.raises(UnknownField):
        Complete(FIELDS).compile(F("nowhere") == 1)


def test_strange_nodes_are_refused() -> None:
    with pytest.raises(UnsupportedFilter, match="Filter"):
        Complete(FIELDS).compile(Filter())


@pytest.mark.parametrize(
    "module", ["shelflist.core.filters", "shelflist.core.filters.compiler", "shelflist.core.capabilities"]
)
def test_no_import_circle(module: str) -> None:
    assert subprocess.run([sys.executable, "-c", f"import {module}"], check=False).returncode == 0
