"""Archive -> folder; whole or not at all, and over no other file."""

import filecmp
import os
import shutil
import tarfile
import zipfile
import zlib

from zoo.data.progress import Progress


def extract(archive, path, directory):
    """Extracts beside the folder's content, then moves into it.

    Args:
        archive: `Archive`.
        path: `pathlib.Path`. Its file, a tar or a zip.
        directory: `pathlib.Path`. Folder of the data set.

    Raises:
        FileExistsError: If a file of the archive is there with other content.
        ValueError: If the file cannot be extracted, or not safely.
    """
    writing = directory / f".extracting-{archive.name}"
    shutil.rmtree(writing, ignore_errors=True)  # left by a run that was killed
    print(f"Extracting {path}", flush=True)
    try:
        try:
            unpack = _unzip if path.suffix == ".zip" else _untar
            unpack(path, writing)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} cannot be extracted: {error}") from error
        _merge(writing / archive.top, directory)
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def _untar(path, writing):
    progress = Progress("Extracted", path.stat().st_size // 10**6, "MB")
    with tarfile.open(path) as archive:
        for member in archive:
            archive.extract(member, writing, filter="data")
            end = member.offset_data + member.size
            progress.add(end // 10**6 - progress.done)


def _unzip(path, writing):
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        progress = Progress("Extracted", len(members), "files")
        for member in members:
            target = (writing / member.filename).resolve()
            if not target.is_relative_to(writing.resolve()):
                raise zipfile.BadZipFile(
                    f"{member.filename!r} would lie outside of the folder"
                )
            archive.extract(member, writing)
            progress.add()


def _merge(source, target):
    """Moves a file or a folder's content; overwrites nothing."""
    if not target.exists():
        os.replace(source, target)
    elif source.is_dir() and target.is_dir():
        # Lists of images come last, when their images are there.
        for child in sorted(
            source.iterdir(), key=lambda child: child.name == "ImageSets"
        ):
            _merge(child, target / child.name)
    elif not filecmp.cmp(source, target, shallow=False):
        raise FileExistsError(
            f"{target} is there already, with another content than in the "
            "archive. Choose another folder, or move the file away."
        )
