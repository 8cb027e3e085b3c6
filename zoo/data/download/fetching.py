"""Server -> archive; goes on where it was stopped, takes only what is right."""

import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request

from zoo.data.progress import Progress

CHUNK = 2**20  # bytes
TIMEOUT_SECONDS = 60
RETRIES = 5  # one after the other without a further byte
FIRST_WAIT_SECONDS = 1.0  # before the first of them; twice as long each time


def fetched(archive, url, directory):
    """Gives the path of a whole archive, fetched if it is not there.

    Args:
        archive: `Archive`.
        url: str. Address of the file.
        directory: `pathlib.Path`. Folder for it; what has come so far lies in
            its `.part`.

    Returns:
        `pathlib.Path`.

    Raises:
        OSError: If the server does not give the file, or there is no room.
        ValueError: If the file is not the published one.
    """
    path = directory / archive.name
    part = directory / f"{archive.name}.part"
    have = _size(path) or _size(part)
    # What is extracted takes about as much again.
    needed = max(archive.size - have, 0) + archive.size
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise OSError(
            f"{archive.name} and what it holds need {needed / 1e9:.1f} GB "
            f"more. Received: {free / 1e9:.1f} GB free for {directory}"
        )
    if path.exists():
        _verify(archive, path)
        return path
    _fetch(url, part, archive.size)
    _verify(archive, part)
    os.replace(part, path)
    return path


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _verify(archive, path):
    print(f"Comparing {path} with its checksum", flush=True)
    size, sha256 = _size(path), "not asked for"
    if size == archive.size:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != archive.sha256:
        raise ValueError(
            f"{path} is not the published archive, so nothing of it was "
            f"extracted: expected {archive.size} bytes with the sha256 "
            f"{archive.sha256}. Received: {size} bytes, sha256 {sha256}. "
            "Delete the file to fetch it again."
        )


def _fetch(url, part, size):
    """Fetches a file, or the rest of it; tries again where a server fails."""
    print(f"Fetching {url}, {size / 1e6:.1f} MB", flush=True)
    progress = Progress("Fetched", size // 10**6, "MB")
    best, failures = -1, 0
    while True:
        problem = "the connection was closed"
        try:
            for have in _received(url, part, size):
                progress.add(have // 10**6 - progress.done)
        except _Failure as error:
            problem = str(error)
        have = _size(part)
        if have >= size:
            return
        failures = 0 if have > best >= 0 else failures + 1
        best = max(best, have)
        if failures > RETRIES:
            raise OSError(
                f"{url} could not be fetched: {problem}. The {have} of {size} "
                f"bytes in {part} are kept: the same command goes on."
            )
        wait = FIRST_WAIT_SECONDS * 2 ** max(failures - 1, 0)
        print(f"{problem}; trying again in {wait:.0f} seconds", flush=True)
        time.sleep(wait)


class _Failure(Exception):
    """What may work at the next try."""


def _received(url, part, size):
    """Appends to a file what a server sends; yields the file's size."""
    have = _size(part)
    if have >= size:
        return
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    with _opened(request) as response:
        if response.status != 206 and have:
            print("The server cannot go on in the middle: from the beginning")
            have = 0
        _check_size(url, response, have, size)
        try:
            with part.open("r+b" if have else "wb") as file:
                file.seek(have)
                # One that sends more than there is must not fill the disk.
                while have <= size and (chunk := _read(response)):
                    file.write(chunk)
                    file.flush()  # a kill loses nothing of it
                    have += len(chunk)
                    yield have
        except OSError as error:
            raise OSError(
                f"{part} cannot be written: {error}. What is there is kept: "
                "the same command goes on."
            ) from error


def _opened(request):
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        answer = f"the server answers {error.code} {error.reason}"
        error.close()
        if error.code >= 500 or error.code in (408, 429):
            raise _Failure(answer) from error
        raise OSError(f"{request.full_url}: {answer}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Failure(str(error)) from error


def _read(response):
    try:
        return response.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Failure(f"the connection broke: {error}") from error


def _check_size(url, response, have, size):
    """Refuses a file of another size before it is fetched."""
    if response.status == 206:
        content_range = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", content_range)
        start, total = map(int, match.groups()) if match else (None, None)
    else:
        start, total = 0, int(response.headers.get("Content-Length", size))
    if (start, total) != (have, size):
        raise OSError(
            f"{url}: expected the bytes from {have} of {size}. Received: "
            f"from {start} of {total}. It is not the published archive."
        )
