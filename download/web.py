"""Files over HTTP: resumed where they broke off, checked against their checksum, in place only when whole."""

import email.utils
import hashlib
import http.client
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from download.jobs import Gone, Stopped, TryLater
from macs.files import publish

CHUNK = 2**20
TIMEOUT = 60  # seconds without a byte
USER_AGENT = "macs-download/1.0"


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch. checksum: "md5:<hex>", "sha256:<hex>", "git:<hex>" (git's) or None if none is published."""

    id: str  # its name
    url: str
    path: Path
    size: int | None = None
    checksum: str | None = None

    def __str__(self):
        return f"{self.url} -> {self.path}" + (f" ({self.size / 1e6:.1f} MB)" if self.size else "")


def open_url(url, first_byte=0):
    """Opens a URL from that byte on. Raises Gone or TryLater."""
    headers = {"User-Agent": USER_AGENT} | ({"Range": f"bytes={first_byte}-"} if first_byte else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise Gone(f"{url}: HTTP {error.code} {error.reason}") from None
        raise TryLater(f"{url}: HTTP {error.code} {error.reason}", retry_after(error.headers)) from error
    except (OSError, http.client.HTTPException) as error:
        raise TryLater(f"{url}: {getattr(error, 'reason', None) or error or type(error).__name__}") from None


def retry_after(headers):
    """Seconds that a Retry-After header (seconds or a date) asks for, at most an hour; None without one."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), 3600.0)


def read_json(url):
    """The parsed JSON at a URL. Raises Gone or TryLater."""
    try:
        with open_url(url) as response:
            return json.load(response)
    except (ValueError, OSError, http.client.HTTPException) as error:
        raise TryLater(f"{url}: {error}") from None


def download_file(file, folder=None, stop=None):
    """Fetches a RemoteFile to its path; work of run_jobs. Returns {"bytes"}. Raises Gone, TryLater or Stopped.

    What has arrived stays in `<path>.part` and is continued by a range request, but only if there is a checksum:
    without one a file that has changed on the server in between would go unnoticed.
    """
    part = file.path.with_name(file.path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if file.checksum and part.exists() else 0
    if have and file.size is not None and have >= file.size:
        return finish(file, part)

    try:
        response = open_url(file.url, have)
    except TryLater as error:
        if isinstance(error.__cause__, urllib.error.HTTPError) and error.__cause__.code == 416:  # nothing is left
            return finish(file, part)
        raise
    with response:
        if response.status != 206:
            have = 0  # the server sends the whole file all the same
        left = response.headers.get("Content-Length")
        total = have + int(left) if left is not None else file.size
        arrived, failure = have, "the connection ended"
        with (
            open(part, "ab" if have else "wb") as output,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=file.path.name, leave=False) as bar,
        ):
            while True:
                if stop is not None and stop.is_set():
                    raise Stopped
                try:
                    data = response.read(CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    failure = str(error) or type(error).__name__
                    data = getattr(error, "partial", b"")
                    output.write(data)
                    arrived += len(data)
                    break
                if not data:
                    break
                output.write(data)
                arrived += len(data)
                bar.update(len(data))
    if total is not None and arrived < total:
        raise TryLater(f"{file.url}: {failure} after {arrived} of {total} bytes", progress=arrived > have)
    return finish(file, part)


def finish(file, part):
    """Checks what has arrived and puts it in place; a file with a wrong checksum is fetched anew."""
    size = part.stat().st_size
    if file.size is not None and size != file.size or file.checksum and not has_checksum(part, file.checksum):
        part.unlink()
        expected = " and ".join(filter(None, [file.size is not None and f"{file.size} bytes", file.checksum]))
        raise TryLater(f"{file.url}: what arrived ({size} bytes) is not what was announced ({expected})")
    publish(part, file.path)
    return {"bytes": size}


def has_checksum(path, checksum):
    """Whether the file has the checksum "<algorithm>:<hex>"; "git" is the SHA-1 that git gives a blob."""
    algorithm, _, expected = checksum.partition(":")
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size) if algorithm == "git" else hashlib.new(algorithm)
    with open(path, "rb") as file:
        hashlib.file_digest(file, lambda: digest)  # goes on with the same digest
    return digest.hexdigest() == expected
