"""Segments of YouTube videos: fetched with yt-dlp, cut exactly, with a 16 kHz mono wav beside each."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from yt_dlp import YoutubeDL
from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor
from yt_dlp.utils import DownloadError, download_range_func

from download.ffmpeg import WAV_ARGUMENTS, FFmpegError, find_ffmpeg, run_ffmpeg
from download.jobs import Gone, Refused, Restricted, TryLater, run_jobs
from macs.decoding import duration
from macs.files import publish
from macs.options import integer

MIN_SECONDS = 1.0  # a shorter piece is no clip
# What YouTube says of a video that will not come back. To try a clip once too often costs a second, to give it up by
# mistake loses it.
GONE = re.compile(
    "private video|video is private|has been removed|removed by the|no longer available|"
    "account .*(terminated|closed|suspended)|incomplete youtube id",
    re.IGNORECASE,
)
# Of one that others can see, or this client with --cookies
RESTRICTED = re.compile(
    "confirm your age|age-restricted|inappropriate for|members-only|join this channel|requires payment|"
    "in your country|not made this video available|who has blocked it|live event|premieres",
    re.IGNORECASE,
)
# And of videos that have gone as well as of any video, to a client that it does not like
REFUSED = re.compile("(video|content) (is )?(unavailable|not available)|(video|content) isn.t available", re.IGNORECASE)
BLOCKED = re.compile("HTTP Error 429|not a bot|rate-limited|try again later", re.IGNORECASE)
BLOCKED_SECONDS = 60  # without any request, of all workers, after YouTube has refused one for their number


@dataclass(frozen=True)
class Clip:
    """A segment of a YouTube video. id: its name in the dataset, and of its files; start, end in seconds."""

    id: str
    youtube_id: str
    start: float
    end: float

    def __str__(self):
        return f"{self.id}: {self.url}, {self.start:g}-{self.end:g} s"

    @property
    def url(self):
        return f"https://www.youtube.com/watch?v={self.youtube_id}"


def download_segment(clip, folder, *, ffmpeg, video=True, max_height=720, cookies=None):
    """Fetches the segment only, cut to the frame (re-encoded), into the folder; returns the file's path.

    video: False fetches the sound alone. max_height: in pixels. Raises Gone, Restricted, Refused or TryLater.
    """
    messages = []

    def begins_before_its_end(info, *, incomplete=False):
        if info.get("duration") and info["duration"] <= clip.start:
            raise Gone(f"the video ends before the segment begins ({info['duration']:g} s, {clip.start:g} s)")

    options = {
        "format": "bestvideo*+bestaudio/best" if video else "bestaudio/best",
        "format_sort": [f"res:{max_height}", "vcodec:h264", "acodec:aac"],
        "merge_output_format": "mp4",
        "download_ranges": download_range_func(None, [(clip.start, clip.end)]),
        "force_keyframes_at_cuts": True,
        "outtmpl": {"default": "segment.%(ext)s"},
        "paths": {"home": str(Path(folder).resolve())},
        "ffmpeg_location": ffmpeg,
        "cookiefile": cookies,
        "noplaylist": True,
        "quiet": True,
        "noprogress": True,
        "retries": 3,
        "socket_timeout": 60,
        "logger": Messages(messages),
        "match_filter": begins_before_its_end,
    }
    if video:
        options["postprocessors"] = [{"key": "FFmpegVideoRemuxer", "preferedformat": "mp4"}]
    # the option above does not reach yt-dlp's check whether there is an ffmpeg at all; its command line sets this too
    FFmpegPostProcessor._ffmpeg_location.set(ffmpeg)
    try:
        with YoutubeDL(options) as downloader:
            downloader.extract_info(clip.url)
    except DownloadError as error:
        reason = " ".join(re.sub(r"\x1b\[[0-9;]*m|^ERROR: ", "", str(error)).split())
        if BLOCKED.search(reason):
            raise TryLater(f"YouTube refuses this address for now: {plain(reason, clip)}", BLOCKED_SECONDS) from None
        for outcome, pattern in ((Gone, GONE), (Restricted, RESTRICTED), (Refused, REFUSED)):
            if pattern.search(reason):
                raise outcome(plain(reason, clip)) from None
        raise TryLater(plain(" ".join([reason, *messages[-1:]]), clip)) from None
    files = [path for path in Path(folder).iterdir() if path.stem == "segment"]
    if len(files) != 1:
        raise TryLater("yt-dlp left " + (", ".join(path.name for path in files) or "no file"))
    return files[0]


class Messages:
    """A logger for yt-dlp that keeps warnings, which often hold the reason of an error, out of the progress bar."""

    def __init__(self, messages):
        self.warning = messages.append

    def debug(self, message):
        pass

    error = info = debug


def plain(reason, clip):
    """The reason without the video's id and the exceptions behind it, so that equal reasons can be counted."""
    reason = re.sub(rf"\[[\w:]+\] {re.escape(clip.youtube_id)}: | \(caused by .*", "", reason)
    return reason.replace(clip.youtube_id, "<id>")[:300]


def add_arguments(parser):
    parser.add_argument(
        "--keep_video",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the mp4 of each segment, from which frames are extracted; without it only the sound "
        "is fetched, which is all that the separator is trained on",
    )
    parser.add_argument(
        "--max_height", type=integer(1), default=720, help="of the video, in pixels; training needs 512"
    )
    parser.add_argument("--cookies", help="cookies.txt of a browser that is signed in, where YouTube asks for it")


def video_options(args):
    """What `add_arguments` asked for, by name, for `download_clips`."""
    return {"keep_video": args.keep_video, "max_height": args.max_height, "cookies": args.cookies}


def download_clips(clips, root, options, *, keep_video, max_height, cookies, download=download_segment):
    """Fetches clips to root/video/<id>.mp4 and root/audio/<id>.wav; returns the exit code.

    options: JobOptions. keep_video, max_height, cookies: as the options of `add_arguments`.
    download(clip, folder, ...): as download_segment; tests put something else in YouTube's place.
    """
    ffmpeg = find_ffmpeg()
    root = Path(root)

    def paths(clip):
        return root / "audio" / f"{clip.id}.wav", root / "video" / f"{clip.id}.mp4"

    def work(clip, folder, stop):
        segment = download(clip, folder, ffmpeg=ffmpeg, video=keep_video, max_height=max_height, cookies=cookies)
        wav, mp4 = paths(clip)
        new_wav = folder / "audio.wav"
        try:
            run_ffmpeg(
                ffmpeg,
                [
                    "-i",
                    segment.resolve(),
                    "-map",
                    "0:a:0",
                    *WAV_ARGUMENTS,
                    "-t",
                    clip.end - clip.start,
                    new_wav.resolve(),
                ],
            )
        except FFmpegError as error:
            if "no sound" in str(error):
                raise Gone(str(error)) from None
            raise TryLater(f"ffmpeg: {error}") from None
        seconds = duration(new_wav)
        if seconds < MIN_SECONDS:
            raise Gone(f"only {seconds:.2f} s of sound in the segment")
        if keep_video:
            publish(segment, mp4)
        publish(new_wav, wav)
        return {"seconds": round(seconds, 3)}

    def complete(clip, entry):
        wav, mp4 = paths(clip)
        return wav.is_file() and (mp4.is_file() or not keep_video)

    return run_jobs(clips, work, root, complete, options, journal_name="downloads.jsonl", unit="clip")
