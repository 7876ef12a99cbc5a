"""Reads a split zip archive (name.z01, name.z02, ..., name.zip) in place, without first joining the parts on disk."""

import io
import struct
import zipfile
from bisect import bisect_right
from itertools import accumulate

END_RECORD = struct.Struct("<4s4H2LH")  # end of central directory: APPNOTE.TXT 4.3.16


class Joined(io.RawIOBase):
    """Several files one after another, as one file that can be read and seeked."""

    def __init__(self, paths):
        self.files = [open(path, "rb") for path in paths]
        sizes = [file.seek(0, io.SEEK_END) for file in self.files]
        *self.starts, self.size = accumulate(sizes, initial=0)
        self.position = 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer):
        if self.position >= self.size:
            return 0
        index = bisect_right(self.starts, self.position) - 1
        self.files[index].seek(self.position - self.starts[index])
        count = self.files[index].readinto(buffer)
        self.position += count
        return count

    def close(self):
        for file in self.files:
            file.close()
        super().close()


def open_split_zip(paths):
    """Opens the parts (in order: .z01, .z02, ..., .zip last) as one zipfile.ZipFile.

    Python's zipfile takes the offsets for those of one file, while they count from the beginning of the part in which
    an entry begins; they are put right here. Raises zipfile.BadZipFile if a part is missing or the order is wrong.
    """
    joined = Joined(paths)
    archive = zipfile.ZipFile(io.BufferedReader(joined, 2**20))
    with open(paths[-1], "rb") as last:
        last.seek(-END_RECORD.size - len(archive.comment), io.SEEK_END)
        signature, last_disk, directory_disk, *_, directory_offset, _ = END_RECORD.unpack(last.read(END_RECORD.size))
    if signature != b"PK\5\6" or last_disk != len(paths) - 1:
        raise zipfile.BadZipFile(f"{paths[-1]}: expected the last of {last_disk + 1} parts, got {len(paths)} parts")
    # zipfile has already added what it takes for the length of something in front of the archive
    added = joined.starts[directory_disk]
    for entry in archive.infolist():
        entry.header_offset += joined.starts[entry.volume] - added
    # Pythons that refuse overlapping entries have drawn each one's bound from the offsets as they were
    end = archive.start_dir
    for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset, reverse=True):
        if hasattr(entry, "_end_offset"):
            entry._end_offset = end
        end = entry.header_offset
    return archive
