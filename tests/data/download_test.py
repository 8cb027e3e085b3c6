import contextlib
import hashlib
import http.server
import io
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from unittest import mock

import pytest
import tensorflow as tf
from absl.testing import parameterized

from tests.data import trees
from tests.recipes.command import run
from zoo import runs
from zoo.data import check, coco, download, voc
from zoo.data.download import __main__ as command
from zoo.data.download import extracting, fetching
from zoo.data.download.archives import ARCHIVES, ELSEWHERE, Archive


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`, as badly as the server's other fields say."""

    def do_GET(self):
        server, name = self.server, self.path.rpartition("/")[2]
        asked = self.headers.get("Range")
        server.asked.append((name, asked))
        if server.errors:
            return self.send_error(server.errors.pop(0))
        if name not in server.files:
            return self.send_error(404)
        content = server.files[name]
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        if asked and server.knows_ranges:
            self.send_response(206)
            first = start + server.shift
            last = len(content) - 1
            self.send_header(
                "Content-Range", f"bytes {first}-{last}/{len(content)}"
            )
        else:
            start = 0
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = server.breaks.pop(0) if server.breaks else len(content)
        self.wfile.write(content[start:end])
        self.wfile.flush()
        if server.hangs and end < len(content):
            server.hanging.set()
            server.released.wait(60)

    def log_message(self, *arguments):
        pass


def tar_of(folder, inside):
    """Gives the bytes of a tar with a folder's content at a place inside."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(folder, inside)
    return file.getvalue()


def zip_of(folder):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(pathlib.Path(folder).rglob("*")):
            archive.write(path, path.relative_to(folder))
    return file.getvalue()


class DownloadTest(parameterized.TestCase, tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        made = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.targets = trees.voc2007(f"{made}/devkit")
        trees.coco2014(f"{made}/coco")
        year = pathlib.Path(made, "devkit/VOC2007")
        cls.files = {}
        # The real archives share folders, not files.
        for part, number in (("trainval", "00"), ("test", "01")):
            folder = pathlib.Path(made, part)
            for path in year.rglob("*.*"):
                if path.name.startswith((number, part)):
                    copy = folder / path.relative_to(year)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(path.read_bytes())
            cls.files[f"VOC{part}.tar"] = tar_of(folder, "VOCdevkit/VOC2007")
        cls.files["coco.zip"] = zip_of(f"{made}/coco")

    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()))
        self.directory = self.root / "VOCdevkit"
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server = server
        server.files, server.asked, server.errors = dict(self.files), [], []
        server.knows_ranges, server.shift, server.breaks = True, 0, []
        server.hangs, server.hanging = False, threading.Event()
        server.released = threading.Event()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def close():
            server.released.set()
            server.shutdown()
            server.server_close()
            thread.join()

        self.addCleanup(close)
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        archives = {
            "voc2007": tuple(map(self.archive, ("VOCtrainval.tar",))),
            "voc2012": (),
            "coco2014": (self.archive("coco.zip", "."),),
        }
        archives["voc2007"] += (self.archive("VOCtest.tar"),)
        self.enter_context(mock.patch.dict(ARCHIVES, archives, clear=True))
        self.enter_context(mock.patch.dict(os.environ, {"no_proxy": "*"}))
        self.enter_context(
            mock.patch.object(fetching, "FIRST_WAIT_SECONDS", 0.001)
        )

    def archive(self, name, top="VOCdevkit"):
        content = self.files[name]
        return Archive(
            f"{self.url}/{name}",
            len(content),
            hashlib.sha256(content).hexdigest(),
            top,
        )

    def run_command(self, *flags, dataset="voc2007"):
        return run(
            command.main, dataset, "--output_dir", self.directory, *flags
        )

    def check_whole(self, directory=None):
        for split, targets in self.targets.items():
            data = voc.read(directory or self.directory, split, 2007)
            self.assertAllEqual(data.targets(), targets)

    def left(self):
        names = {path.name for path in self.directory.iterdir()}
        return sorted(names - {runs.LOCK})

    def test_whole(self):
        out, err, code = self.run_command()
        self.assertEqual(code, 0, err)
        self.check_whole()
        self.assertEqual(self.left(), ["VOC2007", "downloaded.json"])
        self.assertIn(f"python -m zoo.data.check voc2007 {self.directory}", out)
        expected = {
            split: {"examples": len(targets)}
            for split, targets in self.targets.items()
        }
        with (
            mock.patch.dict(check.EXPECTED, {"voc2007": expected}),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            arguments = ["voc2007", str(self.directory), "--decode"]
            self.assertEqual(check.main(arguments), 0)

    def test_one_process_at_a_time(self):
        self.directory.mkdir()
        with runs.claim(self.directory):
            _, err, code = self.run_command()
        self.assertIn("Another process is writing into", f"{err}{code}")
        self.assertEqual(self.server.asked, [])

    @parameterized.parameters(("voc2007", "VOCdevkit"), ("coco2014", "coco"))
    def test_has_a_folder_of_its_own(self, dataset, folder):
        with mock.patch.object(download, "download") as called:
            out, _, code = run(command.main, dataset)
        self.assertEqual(code, 0)
        self.assertEqual(called.call_args.args[1], pathlib.Path(folder))
        self.assertIn(f"{dataset} is in {folder}. ", out)

    def test_a_full_disk_is_named(self):
        with mock.patch.object(fetching, "CHUNK", 50):
            _, err, code = self.run_limited(100)
        self.assertIn(
            "VOCtrainval.tar.part cannot be written: ", f"{err}{code}"
        )
        self.assertIn("the same command goes on", f"{err}{code}")
        part = self.directory / "VOCtrainval.tar.part"
        self.assertEqual(part.stat().st_size, 100)
        _, err, code = self.run_command()
        self.assertEqual(code, 0, err)
        self.assertEqual(self.server.asked[1], (part.stem, "bytes=100-"))
        self.check_whole()

    def test_what_is_there_needs_no_place_to_write_to(self):
        self.assertEqual(self.run_command()[2], 0)
        with mock.patch.object(runs, "claim", side_effect=PermissionError):
            out, err, code = self.run_command()
        self.assertEqual(code, 0, err)
        self.assertIn("VOCtest.tar is there already", out)

    def run_limited(self, num_bytes):
        """Runs the command where no file can grow beyond some bytes."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
        try:
            return self.run_command()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def test_a_zip(self):
        download.download("coco2014", self.directory)
        for split in ("train2014", "val2014"):
            data = coco.read(self.directory, split)
            self.assertLen(data.examples, 7)
            for example in data.examples:
                self.assertTrue(os.path.isfile(example.image_path))

    def test_what_is_there_is_not_fetched_again(self):
        download.download("voc2007", self.directory)
        del self.server.asked[:]
        out, _, code = self.run_command()
        self.assertEqual((code, self.server.asked), (0, []))
        self.assertIn("VOCtest.tar is there already", out)

    def test_keeps_archives(self):
        download.download("voc2007", self.directory, keep_archives=True)
        self.assertIn("VOCtest.tar", self.left())

    def test_takes_an_archive_that_is_there(self):
        self.directory.mkdir()
        for name in ("VOCtrainval.tar", "VOCtest.tar"):
            (self.directory / name).write_bytes(self.files[name])
        self.run_command()
        self.assertEqual(self.server.asked, [])
        self.check_whole()

    def test_mirror(self):
        _, err, code = self.run_command("--mirror", f"{self.url}/own/")
        self.assertEqual(code, 0, err)
        self.check_whole()
        _, err, code = self.run_command("--mirror", "file:///etc")
        self.assertEqual(code, 1)
        self.assertIn("Received: mirror='file:///etc'", err)

    def test_goes_on_after_a_broken_connection(self):
        self.server.breaks = [1000, 5000]
        out, err, code = self.run_command()
        self.assertEqual(code, 0, err)
        ranges = [asked for _, asked in self.server.asked]
        self.assertEqual(ranges, [None, "bytes=1000-", "bytes=5000-", None])
        self.assertIn("trying again", out)
        self.check_whole()

    def test_a_server_that_cannot_go_on_in_the_middle(self):
        self.server.breaks, self.server.knows_ranges = [1000], False
        out, err, code = self.run_command()
        self.assertEqual(code, 0, err)
        self.assertIn("from the beginning", out)
        self.check_whole()

    def test_gives_up_and_goes_on_later(self):
        self.server.breaks = [1000] * 20
        _, err, code = self.run_command()
        self.assertEqual(code, 1)
        size = len(self.files["VOCtrainval.tar"])
        self.assertRegex(
            err, rf"{self.url}/VOCtrainval.tar could not.*1000 of {size} bytes"
        )
        self.assertLen(self.server.asked, 1 + fetching.RETRIES)
        self.server.breaks = []
        self.run_command()
        self.assertEqual(self.server.asked[6][1], "bytes=1000-")
        self.check_whole()

    def test_tries_again_after_an_error_of_the_server(self):
        self.server.errors = [503, 429]
        self.run_command()
        self.check_whole()

    def test_nobody_answers(self):
        self.server.shutdown()
        self.server.server_close()
        _, err, code = self.run_command()
        self.assertEqual(code, 1)
        self.assertIn("VOCtrainval.tar could not be fetched", err)
        self.assertIn("refused", err)

    def test_not_found(self):
        del self.server.files["VOCtrainval.tar"]
        _, err, code = self.run_command()
        self.assertEqual(code, 1)
        self.assertIn(
            f"{self.url}/VOCtrainval.tar: the server answers 404", err
        )
        self.assertLen(self.server.asked, 1)

    def test_a_wrong_file(self):
        name = "VOCtrainval.tar"
        wrong = bytearray(self.files[name])
        wrong[700] ^= 1
        self.server.files[name] = bytes(wrong)
        for _ in range(2):  # it is kept, and refused again
            _, err, code = self.run_command()
            self.assertEqual(code, 1)
            part = self.directory / f"{name}.part"
            self.assertIn(f"{part} is not the published archive", err)
            for content in (self.files[name], wrong):
                self.assertIn(hashlib.sha256(content).hexdigest(), err)
            self.assertEqual(self.left(), [part.name])
        self.assertLen(self.server.asked, 1)
        part.unlink()
        self.server.files[name] = self.files[name]
        self.run_command()
        self.check_whole()

    @parameterized.parameters("VOCtrainval.tar", "VOCtrainval.tar.part")
    def test_a_file_that_is_too_long(self, name):
        self.directory.mkdir()
        content = self.files["VOCtrainval.tar"]
        (self.directory / name).write_bytes(content + b"more")
        _, err, code = self.run_command()
        self.assertEqual(code, 1)
        self.assertIn(f"expected {len(content)} bytes", err)
        self.assertIn(f"Received: {len(content) + 4} bytes", err)

    def test_another_size_is_not_fetched(self):
        self.server.files["VOCtrainval.tar"] += b"more"
        size = len(self.files["VOCtrainval.tar"])
        _, err, code = self.run_command()
        self.assertEqual(code, 1)
        self.assertIn(f"from 0 of {size}. Received: from 0 of {size + 4}", err)
        self.assertEqual(self.left(), [])

    def test_another_place_than_asked_for(self):
        self.server.breaks, self.server.shift = [1000], 1
        _, err, code = self.run_command()
        self.assertEqual(code, 1)
        self.assertRegex(err, "the bytes from 1000 of.* Received: from 1001")

    def test_too_little_room(self):
        with mock.patch.object(
            fetching.shutil, "disk_usage", return_value=mock.Mock(free=10**4)
        ):
            _, err, code = self.run_command()
        self.assertEqual(code, 1)
        self.assertIn("Received: 0.0 GB free", err)
        self.assertEqual(self.server.asked, [])

    def test_a_failed_extraction_leaves_nothing(self):
        def fail(archive, member, *arguments, **options):
            if member.name.endswith("2.jpg"):
                raise OSError("disk full")
            return extract(archive, member, *arguments, **options)

        extract = tarfile.TarFile.extract
        with mock.patch.object(tarfile.TarFile, "extract", fail):
            _, err, code = self.run_command()
        self.assertEqual(code, 1)
        self.assertIn("disk full", err)
        self.assertEqual(self.left(), ["VOCtrainval.tar"])
        self.run_command()
        self.check_whole()

    def test_lists_come_after_their_images(self):
        replace = os.replace

        def stop(source, target):
            if "ImageSets" in str(target):
                raise KeyboardInterrupt
            replace(source, target)

        trainval, test = ARCHIVES["voc2007"]
        for archive in (trainval, test):
            path = self.root / archive.name
            path.write_bytes(self.files[archive.name])
        self.directory.mkdir()
        extracting.extract(trainval, self.root / trainval.name, self.directory)
        with (
            mock.patch.object(extracting.os, "replace", stop),
            self.assertRaises(KeyboardInterrupt),
        ):
            extracting.extract(test, self.root / test.name, self.directory)
        images = list(self.directory.rglob("JPEGImages/*.jpg"))
        self.assertLen(images, 16)  # of both archives
        with self.assertRaisesRegex(FileNotFoundError, "no list"):
            voc.read(self.directory, "test", 2007)
        extracting.extract(test, self.root / test.name, self.directory)
        self.check_whole()

    def test_overwrites_no_other_file(self):
        mine = self.directory / "VOC2007/ImageSets/Main/test.txt"
        mine.parent.mkdir(parents=True)
        mine.write_text("mine\n")
        _, err, code = self.run_command()
        self.assertEqual(code, 1)
        self.assertIn(f"{mine} is there already", err)
        self.assertEqual(mine.read_text(), "mine\n")

    def hostile(self, name, content):
        path = self.root / name
        path.write_bytes(content)
        archive = Archive(f"{self.url}/{name}", 0, "", ".")
        with self.assertRaisesRegex(ValueError, f"{name} cannot be extracted"):
            extracting.extract(archive, path, self.directory)
        self.assertFalse((self.root / "evil.txt").exists())
        self.assertEqual(self.left(), [])

    def test_nothing_is_written_outside(self):
        self.directory.mkdir()
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("../../evil.txt"))
        self.hostile("a.tar", file.getvalue())
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("../../evil.txt", "evil")
        self.hostile("a.zip", file.getvalue())

    def test_broken_archives(self):
        self.directory.mkdir()
        self.hostile("b.tar", b"no tar at all")
        self.hostile("b.zip", self.files["coco.zip"][:-50])
        broken = bytearray(self.files["coco.zip"])
        place = broken.index(b"\xff\xd8")  # a JPEG
        broken[place + 100] ^= 1
        self.hostile("c.zip", broken)

    @pytest.mark.heavy
    def test_killed_while_it_fetches(self):
        self.server.breaks, self.server.hangs = [3000], True
        code = (
            "from zoo.data.download import fetching, archives\n"
            "import pathlib, sys\n"
            f"archive = archives.{ARCHIVES['voc2007'][0]!r}\n"
            f"folder = pathlib.Path({str(self.directory)!r})\n"
            "fetching.fetched(archive, archive.url, folder)\n"
        )
        self.directory.mkdir()
        process = subprocess.Popen([sys.executable, "-c", code])
        self.assertTrue(self.server.hanging.wait(60))
        part = self.directory / "VOCtrainval.tar.part"
        deadline = time.monotonic() + 60
        while fetching._size(part) < 3000 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.server.hangs = False
        _, err, code = self.run_command()
        self.assertEqual(code, 0, err)
        self.assertEqual(self.server.asked[1][1], "bytes=3000-")
        self.check_whole()

    @parameterized.parameters(*ELSEWHERE)
    def test_says_where_to_ask(self, dataset):
        _, err, code = self.run_command(dataset=dataset)
        self.assertEqual(code, 1)
        self.assertIn(ELSEWHERE[dataset], err)
        self.assertFalse(self.directory.exists())


class ArchivesTest(tf.test.TestCase):
    def test_table(self):
        archives = [archive for each in ARCHIVES.values() for archive in each]
        for archive in archives:
            self.assertRegex(archive.sha256, "^[0-9a-f]{64}$")
            self.assertRegex(archive.url, "^http://.*/[^/]+.(tar|zip)$")
        self.assertLen({archive.sha256 for archive in archives}, 6)
        self.assertContainsSubset(ARCHIVES, check.EXPECTED)
