"""Decoding: the samples of any recording in blocks.

libsndfile decodes what it can (wav, flac, ogg, mp3, ...): it is the faster one and seeks exactly. FFmpeg, through PyAV,
takes what libsndfile refuses (m4a, mp4, webm, wma, ...) and what it gets wrong: broken files, and lengths that a header
only estimates.
"""

import mmap
import os
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

# What FFmpeg may take a file for: no playlists and scripts (hls, concat, ...), which open other files and addresses
FFMPEG_FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,rm,tta,voc,w64,wav,wv"
)
MAX_BOXES = 10000  # of an mp4 that are looked at
MIN_RATE, MAX_RATE = 100, 4_000_000  # Hz; below and above them a header is broken, and resampling takes for ever
MAX_CHANNELS = 64
FLAC_START = b"fLaC\0\0\0\x22"  # its marker and the head of the block that every flac begins with
UNKNOWN_LENGTH = 2**40  # frames; libsndfile says 2**63 - 1 where it does not know
PADDING = 4 * 1152  # frames, at most, that the packets of an mp3 or ogg hold more than its sound
MANY_PACKETS, MIN_PACKET = 5000, 16  # so many packets of fewer samples on average are damage, and take for ever


class AudioError(ValueError):
    """A recording that cannot be used; the message names the file, what came and what to do."""


class _Doubt(Exception):
    """libsndfile's answer about a file may be wrong."""


class SoundFileDecoder:
    """A recording through libsndfile. `rate` in Hz, `channels`, `frames`: the length that its header says.

    `end` is the length in frames once the last block has come.
    """

    def __init__(self, path):
        # bytes, as names that are not UTF-8 cannot be encoded otherwise
        self._path = path
        self._file = soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else os.fspath(path))
        self.rate, self.channels, self.frames = self._file.samplerate, self._file.channels, self._file.frames
        self._format = self._file.format
        if not self._file.seekable() or not 0 < self.frames < UNKNOWN_LENGTH:
            raise _Doubt

    def blocks(self, first, size):
        """Yields (size, channels) float32 from frame `first` to the end; the last block is shorter."""
        if first < self.frames:
            self._file.seek(first)
            position = first
            while len(block := self._file.read(size, dtype="float32", always_2d=True)):
                position += len(block)
                yield block
            if position < self.frames:
                raise _Doubt
        self._check_estimate()
        self.end = self.frames

    def length(self):
        """Length in frames. That of PCM follows from the file's size; a compressed one may be cut off."""
        self._check_estimate()
        if not self._file.subtype.startswith(("PCM", "FLOAT", "DOUBLE")) or self._format == "FLAC":
            self._file.seek(self.frames - 1)
            if len(self._file.read(1, dtype="float32", always_2d=True)) == 0:
                raise _Doubt
        return self.frames

    def _check_estimate(self):
        # Told by the bit rate at its beginning, or a header that knows nothing of what was appended or cut off
        if self._format in ("MP3", "OGG") and abs(_count_packets(self._path, self.rate) - self.frames) > PADDING:
            raise _Doubt
        if self._format == "FLAC" and _find(self._path, FLAC_START, 1):
            raise _Doubt

    def close(self):
        self._file.close()


class FFmpegDecoder:
    """A recording, or the sound of a video, through FFmpeg; interface as of `SoundFileDecoder`, `frames` is None.

    It decodes from the beginning whatever the first frame wanted: the positions that files tell are rounded or
    estimated. Packets that are broken are skipped, with a warning.
    """

    frames = None

    def __init__(self, path):
        self._path = path
        packets = self._decode()
        first = next(packets, None)
        packets.close()
        if first is None:
            raise AudioError(f"{path}: the file holds 0 samples; record or download it again")
        self.rate, block = first
        self.channels = block.shape[1]

    def _decode(self):
        """Yields (rate, samples (T, channels)) of one packet after the other."""
        import av

        good = broken = length = 0
        with _open_container(self._path) as container:
            for packet in _packets(container):
                if good + broken > MANY_PACKETS and length < MIN_PACKET * (good + broken):
                    raise AudioError(f"{self._path}: {good + broken} packets hold {length} samples only; it is damaged")
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    broken += packet.size > 0
                    continue
                for frame in frames:
                    good, length = good + 1, length + frame.samples
                    samples = frame.to_ndarray()
                    if not frame.format.is_planar:
                        samples = samples.reshape(-1, frame.layout.nb_channels).T
                    yield frame.sample_rate, scale(samples).T
        if broken > good:
            raise AudioError(f"{self._path}: {broken} of {broken + good} packets cannot be decoded; is it audio?")
        if broken:
            warnings.warn(f"{self._path}: {broken} of {broken + good} packets are broken and left out", stacklevel=1)

    def blocks(self, first, size):
        """Yields (size, channels) float32 from frame `first` to the end; the last block is shorter."""
        self.end = 0
        pending, held = [], 0
        for rate, samples in self._decode():
            if rate != self.rate:
                raise AudioError(
                    f"{self._path}: the sample rate changes from {self.rate} to {rate} Hz at "
                    f"{self.end / self.rate:.1f} s; convert it, for instance with: ffmpeg -i INPUT OUTPUT.wav"
                )
            if samples.shape[1] != self.channels:
                samples = np.repeat(samples.mean(axis=1, keepdims=True), self.channels, axis=1)
            skipped = max(0, first - self.end)
            self.end += len(samples)
            samples = samples[skipped:]
            if len(samples) == 0:
                continue
            pending.append(samples)
            held += len(samples)
            if held >= size:
                joined = np.concatenate(pending)
                whole = held - held % size
                yield from (joined[i : i + size] for i in range(0, whole, size))
                pending, held = [joined[whole:]], held - whole
        if held:
            yield np.concatenate(pending)

    def length(self):
        """Length in frames, by decoding all of it."""
        for _ in self.blocks(0, self.rate):
            pass
        return self.end

    def close(self):
        pass


def decode(path, work):
    """`work(decoder)` with the first decoder that can be trusted with the file. Every fault is an AudioError."""
    try:
        _check_file(path)
        if _is_joined(path):
            warnings.warn(f"{path}: only the first of the recordings joined in this file is read; join them with "
                          "ffmpeg's concat instead", stacklevel=3)  # fmt: skip
        reason = "broken"
        try:
            return _with_decoder(SoundFileDecoder, path, work)
        except AudioError:
            raise
        except soundfile.LibsndfileError as error:
            reason = error.error_string.strip().rstrip(".")
        except (_Doubt, soundfile.SoundFileError, TypeError):  # a TypeError: headerless samples, by the name's suffix
            pass
        import av

        try:
            return _with_decoder(FFmpegDecoder, path, work)
        except av.error.FFmpegError as error:
            raise AudioError(
                f"{path}: expected audio (wav, flac, ogg, mp3, m4a, ...) or a video with sound, but it cannot be "
                f"decoded (libsndfile: {reason}; FFmpeg: {error.strerror}); convert it, for instance with: "
                "ffmpeg -i INPUT OUTPUT.wav"
            ) from None
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from None


def duration(path):
    """Length of a recording in seconds, decoded where its header may be wrong. Raises AudioError."""
    return decode(path, lambda recording: recording.length() / recording.rate)


def _check_file(path):
    if not Path(path).is_file():
        raise AudioError(f"{path}: no such audio file")
    if Path(path).stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes); record or download it again")
    with open(path, "rb"):  # libsndfile does not say why
        pass


def _is_joined(path):
    """Whether a wav, aiff or m4a file is followed by another one in the same file, where decoders never look."""
    with open(path, "rb") as file:
        start = file.read(12)
        if start[:4] in (b"RIFF", b"FORM"):
            size = int.from_bytes(start[4:8], "little" if start[:4] == b"RIFF" else "big")
            file.seek(8 + size + size % 2)
            return file.read(4) == start[:4]
        at, box, end = 0, start, os.fstat(file.fileno()).st_size
        for _ in range(MAX_BOXES if start[4:8] == b"ftyp" else 0):
            size = int.from_bytes(box[:4], "big")
            if size == 1 and at:  # the size follows, in 8 bytes
                size = int.from_bytes(file.read(8), "big")
            at += size
            if size < 8 or at >= end:  # 0 stands for the rest of the file
                break
            file.seek(at)
            box = file.read(8)
            if box[4:8] == b"ftyp":
                return True
    return False


def _find(path, content, first):
    """Whether a file holds these bytes, at position `first` or later."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return mapped.find(content, first) >= 0


def _with_decoder(decoder_class, path, work):
    decoder = decoder_class(path)
    try:
        if not MIN_RATE <= decoder.rate <= MAX_RATE:
            raise AudioError(f"{path}: expected a sample rate from {MIN_RATE} to {MAX_RATE} Hz, but got {decoder.rate}")
        if decoder.channels > MAX_CHANNELS:
            raise AudioError(f"{path}: expected at most {MAX_CHANNELS} channels, but got {decoder.channels}")
        return work(decoder)
    finally:
        decoder.close()


@contextmanager
def _open_container(path):
    """FFmpeg's view of a file. Opened here: for FFmpeg a name like `a:b` is an address."""
    import av

    options = {"format_whitelist": FFMPEG_FORMATS}
    with open(path, "rb") as file, av.open(file, options=options, metadata_errors="ignore") as container:
        if not container.streams.audio:
            raise AudioError(f"{path}: there is no sound in this file; expected audio or a video with sound")
        yield container


def _packets(container):
    """The packets of the (best) audio stream, to where the file ends or breaks off."""
    import av

    packets = container.demux(container.streams.best("audio") or container.streams.audio[0])
    while True:
        try:
            yield next(packets)
        except (StopIteration, av.error.FFmpegError):
            return


def _count_packets(path, rate):
    """Length in frames from the packets, without decoding them."""
    import av

    try:
        with _open_container(path) as container:
            base = container.streams.audio[0].time_base
            return round(sum(packet.duration or 0 for packet in _packets(container)) * base * rate)
    except av.error.FFmpegError:
        raise _Doubt from None


def scale(samples):
    """An array of samples as float32, integers of 8, 16 or 32 bits scaled to [-1, 1). Raises TypeError: others."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype in (np.int8, np.int16, np.int32):
        return samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    raise TypeError(f"expected samples as float, int16, int32 or uint8, but got {samples.dtype}")
