"""Any bytes are looked into, or malformed: nothing else comes of them."""

import contextlib
import io
import pickle
import pickletools

from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import MalformedError
from casemate.image.model.code import why_code
from casemate.image.model.pickles import runs_code

STARTS = [
    b"", b"PK\3\4", b"PK\5\6", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"\x5d\0\0", b"\x78\x9c",
    b"\x93NUMPY\1\0", b"\x89HDF\r\n\x1a\n", b"cos\nsystem\n", b"(", b"\x80\1",
]  # fmt: skip
CODES = [operation.code.encode("latin-1") for operation in pickletools.opcodes]


@given(st.sampled_from(STARTS), st.binary(max_size=600), st.sampled_from(["a", "a.keras"]))
def test_any_bytes(start, rest, name):
    with contextlib.suppress(MalformedError):
        why_code(name, io.BytesIO(start + rest))


@given(st.lists(st.sampled_from([*CODES, b"os\n", b"1\n", b"\1\0\0\0", b"ab"]), max_size=40))
def test_any_operations(parts):
    runs_code(io.BytesIO(b"".join(parts)))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.integers(0, pickle.HIGHEST_PROTOCOL),
)
def test_values_alone_call_nothing_but_what_comes_after_does(value, protocol):
    plain = pickle.dumps(value, protocol)
    calls = b"cposix\nsystem\n(S'id'\ntR"
    # Protocols below 3 write bytes as a call.
    if b"_codecs" not in plain and b"__builtin__" not in plain:
        assert not runs_code(io.BytesIO(plain))
    assert runs_code(io.BytesIO(plain[:-1] + b"0" + calls))
