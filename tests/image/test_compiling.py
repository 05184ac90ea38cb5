"""Sources compiled in processes of their own, and what is kept of it."""

import os
import shutil

import pytest

from casemate.errors import UnavailableError
from casemate.image import compiling
from casemate.image.bytecode import bytecode
from casemate.image.compiling import compiled

A = (b"X = 1\n", "/a.py")
B = (b"Y = 2\n", "/b.py")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def stored(cache):
    return sorted(path for path in cache.rglob("*") if path.is_file())


@pytest.fixture
def tells(monkeypatch):
    """How many sources were compiled."""
    counts = []
    really = compiling._compiled_elsewhere

    def counting(sources):
        counts.append(len(sources))
        return really(sources)

    monkeypatch.setattr(compiling, "_compiled_elsewhere", counting)
    return lambda: sum(counts)


def test_what_was_compiled_is_kept(cache, tells):
    assert compiled([A, B]) == [bytecode(*A), bytecode(*B)]
    assert compiled([B, A, A]) == [bytecode(*B), bytecode(*A), bytecode(*A)]
    assert tells() == 2
    assert [path.stat().st_mode & 0o777 for path in stored(cache)] == [0o600, 0o600]


def test_name_and_text_both_count(tells):
    compiled([A])
    assert compiled([(A[0], "/other.py")]) == [bytecode(A[0], "/other.py")]
    assert compiled([(b"X = 2\n", A[1])]) == [bytecode(b"X = 2\n", A[1])]
    assert tells() == 3


@pytest.mark.parametrize("damage", ["empty", "cut", "longer", "changed"])
def test_damaged_bytecode_is_made_again(cache, tells, damage):
    compiled([A])
    (place,) = stored(cache)
    data = place.read_bytes()
    changed = data[:-1] + bytes([data[-1] ^ 1])
    place.write_bytes(
        {"empty": b"", "cut": data[:-1], "longer": data + b"x", "changed": changed}[damage]
    )
    assert compiled([A]) == [bytecode(*A)]
    assert compiled([A]) == [bytecode(*A)]
    assert tells() == 2


def test_bytecode_at_anothers_place_is_made_again(cache, tells):
    """Whoever can only move files there can't have one module take another's place."""
    compiled([A])
    (first,) = stored(cache)
    compiled([B])
    (second,) = set(stored(cache)) - {first}
    shutil.copy(first, second)
    assert compiled([B]) == [bytecode(*B)]
    assert tells() == 3


def test_bytecode_that_somebody_else_may_write_is_made_again(cache, tells):
    compiled([A])
    (place,) = stored(cache)
    place.chmod(0o666)
    assert compiled([A]) == [bytecode(*A)]
    assert tells() == 2
    assert place.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_bytecode_of_somebody_else_is_made_again(cache, tells):
    compiled([A])
    (place,) = stored(cache)
    os.chown(place, 7, 7)
    assert compiled([A]) == [bytecode(*A)]
    assert tells() == 2


def test_bytecode_behind_a_link_is_made_again(cache, tells):
    compiled([A])
    (place,) = stored(cache)
    place.rename(cache / "elsewhere")
    place.symlink_to(cache / "elsewhere")
    assert compiled([A]) == [bytecode(*A)]
    assert tells() == 2


def test_without_a_cache_it_is_compiled_too(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    assert compiled([A]) == [bytecode(*A)]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(compiling, "cache_folder", _no_home)
    assert compiled([A]) == [bytecode(*A)]


def _no_home(name):
    raise RuntimeError(f"no home for {name}")


def test_many_are_shared_among_processes(monkeypatch, tells):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3))
    sources = [(b"X = 1\n" * (9000 + number), f"/{number}.py") for number in range(8)]
    sources.insert(3, (b"{{", "/no.py"))
    assert compiled(sources) == [bytecode(*source) for source in sources]
    assert tells() == 9


@pytest.mark.parametrize(
    ("name", "value"),
    [("PYTHONNODEBUGRANGES", "1"), ("PYTHONINTMAXSTRDIGITS", "0"), ("PYTHONOPTIMIZE", "2"),
     ("PYTHONWARNINGS", "error"), ("PYTHONPATH", "/nowhere"), ("PYTHONUTF8", "0")],
)  # fmt: skip
def test_the_environment_does_not_count(monkeypatch, cache, name, value):
    source = (
        b"def f(x):\n    'text'\n    assert x\n    return '\\d' is x, " + b"9" * 5000 + b"\n",
        "/f.py",
    )
    short = (source[0].replace(b"9" * 5000, b"9"), "/g.py")
    expected = compiled([source, short])
    shutil.rmtree(cache)
    monkeypatch.setenv(name, value)
    assert compiled([source, short]) == expected


def test_a_process_that_dies_is_an_error(monkeypatch):
    for command in ("/bin/false", "/bin/true", "/nowhere/python"):
        monkeypatch.setattr(compiling.sys, "executable", command)
        with pytest.raises(UnavailableError) as caught:
            compiled([A])
        assert caught.value.code == "bom.compile"
