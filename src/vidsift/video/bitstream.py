"""What a packet's bytes tell without decoding it: is it whole, and can decoding start there.

H.264 (ITU-T H.264, 7.3.1, Annex B, D.1.8) and HEVC (ITU-T H.265, 7.3.1, table 7-1) only; the packets of other
codecs say too little about themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_H264_SLICES = frozenset({1, 2, 3, 4, 5})
# Runs that entropy-coded data does not hold by chance: holes that a download or a disk left.
_HOLES = bytes(64), b"\xff" * 64
_ONES = b"\xff" * 256
_START_CODE = re.compile(rb"\x00\x00\x01")


class Bitstream:
    """Reads the units of one stream's packets; `extradata` is the codec's configuration record."""

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self.codec = codec
        self.has_units = codec in ("h264", "hevc")
        record = bytes(extradata or b"")
        # avcC and hvcC begin with version 1; anything else is Annex B, units between start codes.
        self.prefixed = self.has_units and len(record) >= 7 and record[0] == 1
        self.prefix = 4
        if self.prefixed:
            at = 4 if codec == "h264" else 21
            self.prefixed = len(record) > at
            self.prefix = (record[at] & 3) + 1 if self.prefixed else 4

    def units(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of each unit of a packet; raises ValueError where the lengths do not add up."""
        if not self.prefixed:
            starts = [m.end() for m in _START_CODE.finditer(data)]
            for start, following in zip(starts, [*starts[1:], len(data) + 3], strict=True):
                yield start, following - 3
            return
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at : at + self.prefix], "big")
            start = at + self.prefix
            if start + length > len(data):
                raise ValueError(f"a unit of {length} bytes in a packet of {len(data)}")
            if length:
                yield start, start + length
            at = start + length

    def suspicion(self, data: bytes) -> tuple[str, bool] | None:
        """Say what looks broken in a packet and whether that is certain, or None.

        What is not certain is for the decoder to confirm.
        """
        if not self.prefixed:
            return ("a hole in the data", False) if any(hole in data for hole in _HOLES) else None
        try:
            slices = 0
            for start, end in self.units(data):
                first = data[start]
                if first & 0x80:
                    return "a broken unit header", False
                kind = first & 31 if self.codec == "h264" else first >> 1 & 63
                if not (kind in _H264_SLICES if self.codec == "h264" else kind < 32):
                    continue
                slices += 1
                # Inside a unit 00 00 is always followed by 03; zeros may only trail.
                zeros = data.find(b"\x00\x00\x00", start, end)
                if zeros >= 0 and data[zeros:end].strip(b"\x00"):
                    return "zeros that no encoder writes", True
                if data.find(_ONES, start, end) >= 0:
                    return "a hole in the data", True
        except ValueError as error:
            return str(error), False
        return None if slices else ("no picture in a packet", False)

    def random_access(self, data: bytes) -> bool:
        """Can a decoder that starts at this key packet show it, and all that follows it, exactly?"""
        if not self.has_units:
            return True
        try:
            for start, end in self.units(data):
                if end <= start:
                    continue
                if self.codec == "hevc":
                    kind = data[start] >> 1 & 63
                    if kind < 32:
                        return 16 <= kind <= 21
                    continue
                kind = data[start] & 31
                if kind == 5 or (kind == 6 and _exact_recovery_point(data[start + 1 : end])):
                    return True
                if kind in _H264_SLICES:
                    return False
        except ValueError:
            return False
        return False

    def closed(self, data: bytes) -> bool:
        """Does this key packet also forget all pictures before it (an IDR picture)?"""
        if self.codec != "h264":
            return True
        try:
            return any(data[start] & 31 == 5 for start, end in self.units(data) if end > start)
        except ValueError:
            return False

    def temporal_layer(self, data: bytes) -> bool:
        """Does an HEVC packet hold a picture above the lowest temporal layer?

        Then "non-reference" units may still be referred to from higher layers (H.265, 7.4.2.2).
        """
        try:
            return any(
                data[start] >> 1 & 63 < 32 and data[start + 1] & 7 > 1
                for start, end in self.units(data)
                if end - start > 1
            )
        except ValueError:
            return True


def _exact_recovery_point(sei: bytes) -> bool:
    """Does an SEI unit (header byte removed) promise exact pictures from this packet on?"""
    payload = sei.replace(b"\x00\x00\x03", b"\x00\x00")
    at = 0
    while at + 2 < len(payload):
        kind = size = 0
        while at < len(payload) and payload[at] == 255:
            kind, at = kind + 255, at + 1
        if at >= len(payload):
            return False
        kind, at = kind + payload[at], at + 1
        while at < len(payload) and payload[at] == 255:
            size, at = size + 255, at + 1
        if at >= len(payload):
            return False
        size, at = size + payload[at], at + 1
        if kind == 6 and size and at < len(payload):
            # ue(v) recovery_frame_cnt, u(1) exact_match_flag, u(1) broken_link_flag: 1 1 0 is wanted.
            return payload[at] >> 5 == 0b110
        at += size
    return False
