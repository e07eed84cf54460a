"""The command lines in README.md and docs/ have commands, options and settings that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lightgcn.cli.main import COMMANDS
from lightgcn.cli.options import build_parser, changed_settings
from lightgcn.training.config import preset

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CALL = re.compile(r"(?:^|[&;(] *|-m )lightgcn ([^&;\n]+)", re.MULTILINE)


def commands_of(page: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    return [call for block in blocks for call in CALL.findall(block.replace("\\\n", " "))]


def test_the_pages_have_commands() -> None:
    assert sum(len(commands_of(page)) for page in PAGES) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_parse(page: Path) -> None:
    for call in commands_of(page):
        arguments = build_parser(COMMANDS).parse_args(shlex.split(call, comments=True))
        if hasattr(arguments, "epochs"):
            preset("fast", **changed_settings(arguments))
