"""Strict decoding: bounded, canonical, no trailing bytes; and the encoders beside it."""

from casemate.encoding.cbor import CborValue, decode_cbor, decode_foreign_cbor, encode_cbor
from casemate.encoding.jsontext import JsonValue, decode_json
from casemate.encoding.keys import decode_ed25519_spki
from casemate.encoding.mapping import MapReader
from casemate.encoding.reader import ByteReader
from casemate.encoding.text import decode_base64, decode_hex

__all__ = [
    "ByteReader",
    "CborValue",
    "JsonValue",
    "MapReader",
    "decode_base64",
    "decode_cbor",
    "decode_ed25519_spki",
    "decode_foreign_cbor",
    "decode_hex",
    "decode_json",
    "encode_cbor",
]
