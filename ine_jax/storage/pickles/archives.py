"""The zip archives that torch.save writes, mapped instead of unpacked.

PyTorch stores every member uncompressed, which is what lets a tensor be a view of the file. So nothing here inflates:
an archive with a compressed member, with members that overlap or occur twice, or with bytes before the first member is
rejected, and no archive within an archive is ever opened.
"""

import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ine_jax.storage.untrusted import MAX_WEIGHTS, open_regular

MAX_MEMBERS = 65_536
MAX_DIRECTORY = 16 * 1024 * 1024  # bytes; the list of members is the one thing of a large file that is read whole
_LOCAL = struct.Struct("<4s22xHH")  # signature, sizes of the name and of the extra field
_PICKLE = "data.pkl"
_END = b"PK\x05\x06"
_END_BYTES = 22 + 65_535 + 76  # the record, the longest comment, the records of zip64 before it


class ArchiveError(ValueError):
    """The archive is damaged, or not one that torch.save writes."""


@dataclass(frozen=True)
class Archive:
    """The members of one torch archive, by their name below its top folder, as byte ranges of the mapped file."""

    raw: np.ndarray
    members: dict[str, tuple[int, int]]
    sums: dict[str, int]

    def member(self, name: str) -> np.ndarray:
        """Return the bytes of a member, not copied; ArchiveError where it is missing."""
        if name not in self.members:
            raise ArchiveError(f"its member {name[:80]!r} is missing")
        start, size = self.members[name]
        return self.raw[start : start + size]

    def check_sum(self, name: str) -> None:
        """Raise ArchiveError unless the member's CRC-32 is that of the archive's directory."""
        if zlib.crc32(self.member(name).data) != self.sums[name]:
            raise ArchiveError(f"the checksum of its member {name[:80]!r} does not match")


def open_archive(path: Path, raw: np.ndarray) -> Archive:
    """Return the members of the torch archive at `path`, whose mapped bytes are `raw`; ArchiveError as above."""
    if _directory_size(raw) > MAX_DIRECTORY:
        raise ArchiveError(f"its zip directory is larger than {MAX_DIRECTORY >> 20} MiB")
    try:
        with open_regular(path, MAX_WEIGHTS) as file, zipfile.ZipFile(file) as archive:
            entries, directory = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError, OverflowError) as error:
        raise ArchiveError(f"its zip directory is damaged ({error})") from error
    if len(entries) > MAX_MEMBERS:
        raise ArchiveError(f"{len(entries)} members")
    tops = [entry.filename.removesuffix(_PICKLE) for entry in entries if entry.filename.endswith("/" + _PICKLE)]
    if len(tops) != 1 or tops[0].count("/") != 1:
        raise ArchiveError(f"{len(tops)} members named FOLDER/{_PICKLE} instead of one")
    members: dict[str, tuple[int, int]] = {}
    sums: dict[str, int] = {}
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        start = _payload(entry, raw, end)
        end = start + entry.file_size
        name = entry.filename.removeprefix(tops[0])
        if end > directory or name in members or not entry.filename.startswith(tops[0]):
            raise ArchiveError(
                f"its member {entry.filename[:80]!r} overlaps another, occurs twice or is outside the folder"
            )
        members[name], sums[name] = (start, entry.file_size), entry.CRC
    return Archive(raw, members, sums)


def _directory_size(raw: np.ndarray) -> int:
    """Return the size in bytes of the zip directory, from the record at the end (APPNOTE 4.3.14 and 4.3.16)."""
    tail = raw[-_END_BYTES:].tobytes()
    plain = tail[-22:].startswith(_END) and tail.endswith(b"\0\0")  # no comment behind it
    at = len(tail) - 22 if plain else tail.rfind(_END)
    if at < 0:
        raise ArchiveError("its zip directory is missing")
    large = tail[max(0, at - 76) : at]  # zip64: its own record, then a locator of 20 bytes
    if large[:4] == b"PK\x06\x06" and large[56:60] == b"PK\x06\x07":
        return int.from_bytes(large[40:48], "little")
    return int.from_bytes(tail[at + 12 : at + 16], "little")


def _payload(entry: zipfile.ZipInfo, raw: np.ndarray, end: int) -> int:
    """Return where the bytes of a member begin, from its local header; `end` is the end of the member before it."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
        raise ArchiveError(f"its member {entry.filename[:80]!r} is compressed or encrypted")
    at = entry.header_offset
    # Between two members there may be a data descriptor, never a byte before the first one.
    if at < end or (end == 0 and at != 0) or at + _LOCAL.size > len(raw):
        raise ArchiveError(f"its member {entry.filename[:80]!r} overlaps another or is outside")
    signature, name, extra = _LOCAL.unpack(raw[at : at + _LOCAL.size].tobytes())
    begin = at + _LOCAL.size
    if signature != b"PK\x03\x04" or raw[begin : begin + name].tobytes() != entry.orig_filename.encode("utf-8"):
        raise ArchiveError(f"the header of its member {entry.filename[:80]!r} does not match")
    return begin + int(name) + int(extra)
