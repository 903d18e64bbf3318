"""Every command explains itself, and docs/cli.md is what the commands say."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest

from shelflist.cli.reference import commands, reference

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"
CONTEXTS = list(commands())


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.command_path)
def test_help_has_an_example_that_parses(context: click.Context) -> None:
    text = context.get_help()
    assert "Example:\n" in text
    example = text.partition("Example:\n")[2].splitlines()[0].strip()
    assert example.startswith("shelflist ")
    if not isinstance(context.command, click.Group):
        assert example.startswith(context.command_path)
        arguments = shlex.split(example)[len(context.command_path.split()) :]
        context.command.make_context(context.info_name, arguments, parent=context.parent, resilient_parsing=False)


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.command_path)
def test_every_option_is_explained_and_the_short_help_is_whole(context: click.Context) -> None:
    for parameter in context.command.get_params(context):
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{context.command_path} {parameter.name} has no help"
    if context.parent:
        assert not context.command.get_short_help_str(limit=66).endswith("...")


def test_every_command_of_the_design_is_there() -> None:
    names = {context.info_name for context in CONTEXTS if context.parent and context.parent.parent is None}
    wanted = "init plan sync search status documents show count why verify repair purge copy drop fields stores demo"
    assert names == set(wanted.split())


def test_the_documented_reference_is_current() -> None:
    assert DOCS.read_text(encoding="utf-8") == reference(), "run: python -m shelflist.cli.reference > docs/cli.md"
