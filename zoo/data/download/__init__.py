r"""Fetches a data set from its official address, where there is a network.

Run:    python -m zoo.data.download voc2007          # into VOCdevkit
        python -m zoo.data.download coco2014 --output_dir coco \
            --mirror http://files.example.org/coco

A download that was stopped goes on by the same command. An archive is compared
with its checksum, extracted beside the folder's content, then moved into it;
what is there already is not fetched again, and no other file is overwritten.
An archive that lies in the folder by its name is taken as it is.
"""

import json
import pathlib

from zoo import runs
from zoo.data.download.archives import ARCHIVES
from zoo.data.download.extracting import extract
from zoo.data.download.fetching import fetched

DONE = "downloaded.json"  # archive's name -> sha256, of those in the folder


def download(dataset, directory, mirror=None, keep_archives=False):
    """Fetches and extracts what of a data set is not there yet.

    Args:
        dataset: str, a key of `ARCHIVES`.
        directory: str or path. Folder of the data set, made if need be.
        mirror: str, the URL of a folder with the archives, or `None` for their
            official addresses.
        keep_archives: bool. Whether archives stay in the folder.

    Raises:
        FileExistsError: If a file of the archive is there with other content,
            or another process writes into the folder.
        OSError: If the server does not give an archive, or the disk has too
            little room for it.
        ValueError: If an archive is not the published one, or `mirror` is no
            URL.

    Example:

    >>> download("voc2007", "VOCdevkit")  # doctest: +SKIP
    """
    if mirror and not mirror.startswith(("http://", "https://")):
        raise ValueError(
            "`mirror` must begin with http:// or https://. "
            f"Received: mirror={mirror!r}"
        )
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for archive in ARCHIVES[dataset]:
        if _done(directory).get(archive.name) == archive.sha256:
            print(f"{archive.name} is there already, says {directory / DONE}")
            continue
        url = archive.url
        if mirror:
            url = f"{mirror.rstrip('/')}/{archive.name}"
        with runs.claim(directory):
            path = fetched(archive, url, directory)
            extract(archive, path, directory)
            done = {**_done(directory), archive.name: archive.sha256}
            runs.write_json(directory / DONE, done)
            if not keep_archives:
                path.unlink()


def _done(directory):
    path = directory / DONE
    return json.loads(path.read_bytes()) if path.exists() else {}
