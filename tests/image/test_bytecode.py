"""Bytecode of sources, and the program that compiles them."""

import codecs
import importlib.util
import io
import marshal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.image import bytecode as program
from casemate.image.bytecode import bytecode, encode_sources, parse_bytecode


def test_bytecode_is_what_the_interpreter_takes():
    source = b"def f(x):\n    return x in {'a', 'b'}\n"
    made = bytecode(source, "/usr/lib/m.py")
    assert made[:4] == importlib.util.MAGIC_NUMBER
    assert made[4:8] == b"\1\0\0\0"  # by hash, and not compared: sources and bytecode are sealed
    assert made[8:16] == importlib.util.source_hash(source)
    code = marshal.loads(made[16:])
    assert code.co_filename == "/usr/lib/m.py"
    space = {}
    exec(code, space)
    assert space["f"]("a")


@pytest.mark.parametrize(
    "source",
    [
        b"{{ template }} x", b"\0", b"(" * 300, b"-" * 100_000 + b"1", b"\xff",
        b"# coding: no_such_codec\n", b"x" * (16 * 1024 * 1024 + 1), b"+".join([b"1"] * 50_000),
        b"x = " + b"[" * 150 + b"]" * 150 + b"\n" + b"if 1:\n" * 150,
    ],
)  # fmt: skip
def test_what_does_not_compile_has_no_bytecode(source):
    made = bytecode(source, "/m.py")
    assert made is None or source.startswith(b"1+")


@pytest.mark.parametrize("text", ["# coding: {}\n", "\n# -*- coding: {} -*-\n", "#!x\r# coding={}"])
def test_a_codec_is_never_looked_for_by_the_name_that_a_source_gives(text):
    asked = []

    def watch(name):
        asked.append(name)

    codecs.register(watch)
    try:
        for start in ("", "\ufeff"):
            assert bytecode((start + text.format("planted_codec")).encode(), "/m.py") is None
        assert asked == []
        assert bytecode(text.format("utf-8").encode(), "/m.py")
    finally:
        codecs.unregister(watch)


SOURCES = [(b"X = 1\n", "/a.py"), (b"{{", "/b.py"), (b"", "/\udcff.py")]


def test_the_program_gives_what_the_function_does():
    command = [sys.executable, "-I", "-S", program.__file__]
    done = subprocess.run(command, input=encode_sources(SOURCES), capture_output=True, check=True)
    codes = parse_bytecode(done.stdout)
    assert codes == [bytecode(*source) for source in SOURCES]
    assert [code is None for code in codes] == [False, True, False]


@given(st.lists(st.tuples(st.binary(max_size=40), st.text(max_size=8)), max_size=4), st.data())
def test_an_answer_that_is_cut_is_none(sources, data):
    answer = io.BytesIO()
    program._main(io.BytesIO(encode_sources(sources)), answer)
    whole = answer.getvalue()
    assert parse_bytecode(whole) == [bytecode(*source) for source in sources]
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    try:
        assert parse_bytecode(cut) == parse_bytecode(whole)[: len(parse_bytecode(cut))]
    except ValueError:
        assert len(cut) < len(whole)


@given(st.binary())
def test_any_answer_is_bytecode_or_refused(data):
    try:
        codes = parse_bytecode(data)
    except ValueError:
        return
    assert sum(8 + len(code or b"") for code in codes) == len(data)
