"""Commands that the documents show exist, with the options that they are shown with."""

import re
import shlex
from pathlib import Path

import click
import pytest

from casemate.cli.main import casemate

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for folder in (".", "docs", "specs", "requirements")
    for path in (ROOT / folder).glob("**/*.md" if folder != "." else "*.md")
)
# Their options are their programs' own, which cli passes on.
PASSED_ON = {"launch", "serve"}


def shown(text):
    """The command lines of ``casemate`` in indented and fenced blocks, continued lines joined."""
    joined = re.sub(r"\\\n\s+", "", text)
    yield from re.findall(r"^ *(casemate [a-z].*)$", joined, re.MULTILINE)


def lines():
    for path in DOCUMENTS:
        blocks = re.findall(r"^(?: {4,}.*\n)+|```\w*\n.*?```", path.read_text(), re.M | re.S)
        for line in shown("\n".join(blocks)):
            yield path.relative_to(ROOT), line


def problem(line):
    words = shlex.split(re.sub(r"\$\([^)]*\)", "", line), comments=True)[1:]
    command, name = casemate, "casemate"
    while isinstance(command, click.Group):
        word = words.pop(0)
        command = command.get_command(click.Context(command), word)
        if command is None:
            return f"no command {word}"
        name = word
    if name in PASSED_ON:
        return None
    known = {each for param in command.params for each in (*param.opts, *param.secondary_opts)}
    given = [word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    unknown = [option for option in given if option not in known | {"--help"}]
    return f"{unknown} of {name}" if unknown else None


@pytest.mark.parametrize(
    ("document", "line"), list(lines()), ids=[f"{path}: {line[:60]}" for path, line in lines()]
)
def test_a_command_in_the_documents_exists_with_its_options(document, line):
    assert problem(line) is None, document
