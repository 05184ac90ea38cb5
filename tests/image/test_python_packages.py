"""Packages from locked requirements and from environments."""

import base64
import hashlib
import zipfile
from dataclasses import replace

import pytest
from tests.support.disks import fill, small_disk
from tests.support.packages import install

from casemate.errors import UnavailableError, UsageError
from casemate.image.bom.grammar import PythonItem
from casemate.image.python_packages import VERSION, with_packages
from casemate.image.python_tree import python_files

ITEM = PythonItem(
    interpreter="auto", stdlib="minimal", distributions=(), packages="", modules=(), excludes=(),
    where="bill.yaml:1",
)  # fmt: skip


def wheel(folder, name, content):
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}/__init__.py": content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()
        rows.append(f"{path},sha256={digest.rstrip('=')},{len(text)}")
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""])
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in files.items():
            archive.writestr(each, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """Wheels in a folder that pip installs from, and a cache of one's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    def lock(text):
        (tmp_path / "requirements.txt").write_text(text)
        return replace(ITEM, requirements=str(tmp_path / "requirements.txt"))

    return lock


def test_locked_requirements_are_taken_and_nothing_of_them_runs(tmp_path, locked):
    mark = tmp_path / "it-ran"
    digest = wheel(tmp_path, "planted", f"open({str(mark)!r}, 'w')\n")
    item = locked(f"# a comment\nplanted==1.0 \\\n    --hash=sha256:{digest}\n")
    found = {file.path for file in python_files(item) if "packages/" in file.path}
    assert any(path.endswith("packages/planted/__init__.py") for path in found)
    assert not mark.exists()
    (tmp_path / "planted-1.0-py3-none-any.whl").unlink()
    assert with_packages(item).distributions == ("planted",), "from the cache"


def test_a_full_cache_is_said_to_be_what_it_is(tmp_path, locked, monkeypatch):
    item = locked(f"planted==1.0 --hash=sha256:{'0' * 64}\n")
    with small_disk(tmp_path / "disk") as disk:
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
        fill(disk)
        with pytest.raises(UsageError) as caught:
            with_packages(item)
        assert not list((disk / "casemate/python").iterdir())
    assert caught.value.code == "image.unwritable"
    assert str(caught.value.field).startswith(str(disk))


def test_a_wheel_with_another_hash_is_refused(tmp_path, locked):
    wheel(tmp_path, "planted", "")
    with pytest.raises(UnavailableError) as caught:
        with_packages(locked(f"planted==1.0 --hash=sha256:{'0' * 64}\n"))
    assert caught.value.code == "bom.install"
    assert not list((tmp_path / "cache/casemate/python").iterdir()), "nothing is left behind"


@pytest.mark.parametrize(
    "line",
    [
        "planted==1.0", "planted --hash=sha256:ab", "planted>=1 --hash=sha256:ab", "-e .",
        "--index-url=x", "-r other.txt", "./planted.whl --hash=sha256:ab",
        "planted==1.0 --hash=sha256:ab --no-binary=planted", "--no-binary :all:",
        "planted @ https://example.invalid/a.whl --hash=sha256:ab", "planted==1.0 --hash=md5:ab",
    ],
)  # fmt: skip
def test_what_is_not_locked_is_refused(locked, line):
    with pytest.raises(UsageError) as caught:
        with_packages(locked(f"\n{line}\n"))
    assert caught.value.code == "bom.python"


def test_all_of_an_environment_but_its_installers(tmp_path):
    site = tmp_path / f"env/lib/{VERSION}/site-packages"
    install(site, "planted", {"planted.py": ""})
    install(site, "pip", {"pip.py": ""})
    item = with_packages(replace(ITEM, environment=str(tmp_path / "env")))
    assert (item.packages, item.distributions) == (str(site), ("planted",))
    named = with_packages(replace(ITEM, environment=str(tmp_path / "env"), distributions=("pip",)))
    assert named.distributions == ("pip",)
    with pytest.raises(UsageError):
        with_packages(replace(ITEM, environment=str(tmp_path / "absent")))
    with pytest.raises(UsageError):
        with_packages(replace(ITEM, requirements=str(tmp_path / "absent")))
