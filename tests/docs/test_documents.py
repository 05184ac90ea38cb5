"""What the documents say of the repository holds."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click import Context

from casemate.cli.main import casemate
from casemate.image.bom.grammar import parse_bom_text

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for folder in (".", "docs", "specs", "requirements")
    for path in (ROOT / folder).glob("**/*.md" if folder != "." else "*.md")
)


def links(document):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        if not re.match(r"[a-z]+:", target):
            yield (document.parent / target).resolve()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target in links(document):
        assert target.exists(), target


def test_every_document_is_found_from_the_readme():
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        document = ahead.pop()
        if document not in reached and document.suffix == ".md":
            reached.add(document)
            ahead += links(document)

    assert [str(path.relative_to(ROOT)) for path in DOCUMENTS if path not in reached] == []


def test_the_architecture_names_every_package_and_command():
    text = (ROOT / "docs" / "architecture.md").read_text()
    packages = [path.parent.name for path in (ROOT / "src/casemate").glob("*/__init__.py")]
    assert packages
    assert [name for name in (*packages, *casemate.list_commands(Context(casemate)))
            if f"`{name}`" not in text] == []  # fmt: skip


BILLS = re.findall(
    r"```yaml\n(.*?)```",
    (ROOT / "docs/how-to/write-a-bill-of-materials.md").read_text(),
    re.DOTALL,
)


@pytest.mark.parametrize("text", BILLS)
def test_a_bill_in_the_documents_is_one(text):
    assert parse_bom_text(text.encode(), "document", {}).targets


def test_every_promise_of_the_threat_model_has_its_attack():
    text = (ROOT / "docs" / "threat-model.md").read_text()
    promises = re.findall(r"^\| (P\d+) \|.*\| ([^|]+) \|$", text, re.MULTILINE)

    assert [name for name, _ in promises] == [f"P{n}" for n in range(1, len(promises) + 1)]
    for name, tests in promises:
        for test in re.findall(r"`(\w+)`", tests):
            assert (ROOT / "tests" / "attacks" / f"{test}.py").is_file(), f"{name}: {test}"


def test_every_attack_is_named_in_the_threat_model():
    text = (ROOT / "docs" / "threat-model.md").read_text()

    for path in (ROOT / "tests" / "attacks").glob("test_*.py"):
        assert f"`{path.stem}`" in text, path.name


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_nothing_tracked_names_a_machine_or_a_registry():
    words = r"(^|[^A-Za-z0-9_.~-])/(work|farm|root/\.pyenv)/|pypi\.org|files\.pythonhosted"
    found = subprocess.run(
        ["git", "grep", "-lE", words, "--", ".", ":!tests/docs"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode > 1:
        pytest.skip("not a git checkout")
    assert found.stdout == ""
