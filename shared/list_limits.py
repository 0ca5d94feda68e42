"""Bounds the lists of a request before it is parsed: a few thousand bytes may hold millions of empty elements.

A walk over the top level of protobuf's wire format counts them. Most messages are too short to need it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_DELIMITED = (FieldDescriptor.CPPTYPE_MESSAGE, FieldDescriptor.CPPTYPE_STRING)
_VARINT, _LENGTH_DELIMITED = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}

_VARINT_MAX_BYTES = 10
"""Of one element of a packed list."""


class NotAMessage(Exception):
    """The bytes are not protobuf, or have groups, which no message of ours has."""


@dataclass(frozen=True, slots=True)
class ListLimit:
    """At most so many elements in a list of a request."""

    field: str
    most: int
    number: int
    packed: bool
    """Its elements are numbers, which may stand in one field together."""


def list_limits(request: type[Message], **most: int) -> Sequence[ListLimit]:
    """The limits of a request's lists, by their names in the contract."""
    fields = request.DESCRIPTOR.fields_by_name
    return [
        ListLimit(name, its_most, fields[name].number, fields[name].cpp_type not in _DELIMITED)
        for name, its_most in most.items()
    ]


def exceeded(wire: bytes, limits: Sequence[ListLimit]) -> ListLimit | None:
    """The limit that a message exceeds, if it does. Raises NotAMessage.

    Of a packed list up to ten times as many elements as its limit may pass: whoever parses it counts them.
    """
    suspects = {limit.number: limit for limit in limits if _may_exceed(wire, limit)}
    return _first_exceeded(wire, suspects) if suspects else None


def _may_exceed(wire: bytes, limit: ListLimit) -> bool:
    if limit.packed:
        return len(wire) > limit.most
    # Each element begins with this byte, or has its highest bit set in a needlessly long form. Others may, too.
    tag = limit.number << 3 | _LENGTH_DELIMITED
    return len(wire) > 2 * limit.most and wire.count(tag) + wire.count(tag | 0x80) > limit.most


def _first_exceeded(wire: bytes, limits: Mapping[int, ListLimit]) -> ListLimit | None:
    left = {number: limit.most for number, limit in limits.items()}
    at, end = 0, len(wire)
    try:
        while at < end:
            tag, at = (wire[at], at + 1) if wire[at] < 0x80 else _varint(wire, at)
            kind, number, elements = tag & 7, tag >> 3, 1
            if kind == _LENGTH_DELIMITED:
                length, at = (wire[at], at + 1) if wire[at] < 0x80 else _varint(wire, at)
                at += length
                if number in limits and limits[number].packed:
                    elements = -(-length // _VARINT_MAX_BYTES)
            elif kind == _VARINT:
                _, at = _varint(wire, at)
            elif kind in _FIXED_BYTES:
                at += _FIXED_BYTES[kind]
            else:
                raise NotAMessage
            if number in left:
                left[number] -= elements
                if left[number] < 0:
                    return limits[number]
    except IndexError:
        raise NotAMessage from None
    return None


def _varint(wire: bytes, at: int) -> tuple[int, int]:
    """The number that begins there, and where it ends."""
    value = 0
    for place in range(_VARINT_MAX_BYTES):
        byte = wire[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise NotAMessage
