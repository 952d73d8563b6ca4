"""ICC colour profiles, less what is private, such as the serial number of a display."""

from __future__ import annotations

import struct

_COLOUR_TAGS = frozenset(
    b"rXYZ gXYZ bXYZ rTRC gTRC bTRC wtpt bkpt chad chrm lumi cicp gamt meas view vued tech rig0 "
    b"rig2 A2B0 A2B1 A2B2 A2B3 B2A0 B2A1 B2A2 B2A3 D2B0 D2B1 D2B2 D2B3 B2D0 B2D1 B2D2 B2D3 pre0 "
    b"pre1 pre2 desc cprt".split()
)
"""Tags that say what the colours are, and the two texts that every profile must have."""
_HEADER = 128
_ENTRY = struct.Struct(">4sII")  # in the table of tags: a name, an offset and a length


def colours_of(profile: bytes) -> bytes | None:
    """An RGB profile with the same colours and little else; None if it is damaged.

    Only its colour tags remain, and a header without the device and the digest, which would be
    wrong. A profile that has no other tags, nor bytes outside of tags, is returned as it is.
    """
    places = _places(profile)
    kept = {name: place for name, place in places.items() if name in _COLOUR_TAGS}
    data = dict.fromkeys(kept.values(), 0)  # tags may share it
    first = _HEADER + 4 + _ENTRY.size * len(kept)
    whole = all(at + size <= len(profile) for at, size in data)
    if not kept or not whole or sum(size for _, size in data) > len(profile):
        return None
    body = b""
    for at, size in data:
        data[at, size] = first + len(body)
        body += profile[at : at + size] + bytes(-size % 4)
    if len(kept) == len(places) and first + len(body) >= len(profile):
        return profile
    head = struct.pack(">I", first + len(body)) + profile[4:48] + bytes(8) + profile[56:84]
    table = b"".join(_ENTRY.pack(name, data[place], place[1]) for name, place in kept.items())
    return head.ljust(_HEADER, b"\0") + struct.pack(">I", len(kept)) + table + body


def _places(profile: bytes) -> dict[bytes, tuple[int, int]]:
    """The offset and length of each tag; of none, if the table is cut short."""
    count = int.from_bytes(profile[_HEADER : _HEADER + 4])
    table = profile[_HEADER + 4 : _HEADER + 4 + _ENTRY.size * count]
    if len(table) < _ENTRY.size * count:
        return {}
    return {name: (at, size) for name, at, size in _ENTRY.iter_unpack(table)}
