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

OTHER_FIELDS_MAX = 1_000
"""Fields of a request beside the elements of its lists: more than any has, and a millisecond to walk over."""


class NotAMessage(Exception):
    """The bytes are not protobuf, or have groups or more fields than any message of ours has."""


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
    if not any(_may_exceed(wire, limit) for limit in limits):
        return None
    return _first_exceeded(wire, {limit.number: limit for limit in limits})


def _may_exceed(wire: bytes, limit: ListLimit) -> bool:
    if limit.packed:
        return len(wire) > limit.most
    # The first byte of each element: its tag, or the tag's lowest bits in a needlessly long form. Others may be alike.
    tag = _tag(limit) & 0x7F
    return len(wire) > 2 * limit.most and wire.count(tag) + wire.count(tag | 0x80) > limit.most


def _tag(limit: ListLimit) -> int:
    return limit.number << 3 | _LENGTH_DELIMITED


def _first_exceeded(wire: bytes, limits: Mapping[int, ListLimit]) -> ListLimit | None:
    longest = max(limits.values(), key=lambda limit: 0 if limit.packed else limit.most)
    usual = -1 if longest.packed else _tag(longest)
    left = {number: limit.most for number, limit in limits.items()}
    left_of_longest, at = longest.most, 0
    try:
        for _ in range(sum(left.values()) + OTHER_FIELDS_MAX):
            if wire[at] == usual and wire[at + 1] < 0x80:  # nearly every reading, hence in the fewest steps
                at += 2 + wire[at + 1]
                left_of_longest -= 1
            else:
                number, elements, at = _field(wire, at, limits)
                if number == longest.number:
                    left_of_longest -= elements
                elif number in left:
                    left[number] -= elements
                    if left[number] < 0:
                        return limits[number]
            if left_of_longest < 0:
                return longest
    except IndexError:
        if at == len(wire):
            return None
    raise NotAMessage


def _field(wire: bytes, at: int, limits: Mapping[int, ListLimit]) -> tuple[int, int, int]:
    """The number of the field that begins there, how many elements of a list it has, and where it ends."""
    tag, at = _varint(wire, at)
    kind, number = tag & 7, tag >> 3
    if kind == _LENGTH_DELIMITED:
        length, at = _varint(wire, at)
        packed = number in limits and limits[number].packed
        return number, -(-length // _VARINT_MAX_BYTES) if packed else 1, at + length
    if kind == _VARINT:
        return number, 1, _varint(wire, at)[1]
    if kind in _FIXED_BYTES:
        return number, 1, at + _FIXED_BYTES[kind]
    raise NotAMessage


def _varint(wire: bytes, at: int) -> tuple[int, int]:
    """The number that begins there, and where it ends."""
    value = 0
    for place in range(_VARINT_MAX_BYTES):
        byte = wire[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise NotAMessage
