"""Tests the command line of the client, against the embedded server."""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import grpc
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from serving import ask
from serving.client import Client, Prediction, ServingError
from serving.server import Server
from tests.serving import small_model

FREE_PORT = "localhost:1"  # nothing listens there


class AskTest(parameterized.TestCase, tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = pathlib.Path(
            cls.enterClassContext(tempfile.TemporaryDirectory())
        )
        (cls.folder / "model").mkdir()
        small_model.save(cls.folder / "model", 1)
        cls.server = Server({"small": cls.folder / "model"}, port=0)
        cls.enterClassContext(cls.server)
        (cls.folder / "white.jpg").write_bytes(small_model.jpeg(255))
        (cls.folder / "dark.jpg").write_bytes(small_model.jpeg(51))
        (cls.folder / "empty.jpg").touch()
        (cls.folder / "text.jpg").write_text("not a photo")

    def run_main(self, *arguments, target=None):
        """Gives exit code, lines of output, lines of errors."""
        target = target or self.server.target
        paths = [
            str(self.folder / a) if a.endswith(".jpg") else a for a in arguments
        ]
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output):
            with contextlib.redirect_stderr(errors):
                code = ask.main(
                    ["--target", target, "--model", "small", *paths]
                )
        return (
            code,
            output.getvalue().splitlines(),
            errors.getvalue().splitlines(),
        )

    def test_prints_labels(self):
        code, output, errors = self.run_main("white.jpg", "dark.jpg")
        self.assertEqual((code, errors), (0, []))
        self.assertEqual(output[0], str(self.folder / "white.jpg"))
        self.assertEqual(output[1], "  person  1.000")
        self.assertEqual(output[2], "  caf\u00e9    0.500")
        self.assertEqual(output[3], str(self.folder / "dark.jpg"))
        self.assertRegex(output[4], "no label.*--threshold")

    def test_threshold_and_top(self):
        _, output, _ = self.run_main("--threshold", "0.2", "white.jpg")
        self.assertLen(output, 4)
        _, output, _ = self.run_main("--top", "1", "dark.jpg")
        self.assertEqual(output[1:], ["  person  0.200"])

    def test_json(self):
        code, output, _ = self.run_main("--json", "white.jpg", "dark.jpg")
        self.assertEqual(code, 0)
        white, dark = map(json.loads, output)
        self.assertEqual(white["file"], str(self.folder / "white.jpg"))
        self.assertEqual(white["labels"][0]["label"], "person")
        self.assertAllClose(white["labels"][0]["probability"], 1.0)
        self.assertEqual(dark["labels"], [])
        self.assertNotIn("sequence", dark)

    def test_sequence_is_the_answer_unless_told_otherwise(self):
        prediction = Prediction(
            probabilities=np.float32([0.625, 0.125, 0.875]),
            top_labels=("caf\u00e9", "dog"),
            top_probabilities=np.float32([0.875, 0.625]),
            sequence_labels=("person", "caf\u00e9"),
            sequence_probabilities=np.float32([0.25, 0.5]),
        )
        sequence = ["  person  0.250", "  caf\u00e9    0.500"]
        probable = ["  caf\u00e9  0.875", "  dog   0.625"]
        with mock.patch.object(Client, "predict", return_value=[prediction]):
            for arguments, expected in (
                ((), sequence),
                (("--threshold", "0.5"), probable),
                (("--threshold", "0.7"), probable[:1]),
                (("--top", "2"), probable),
            ):
                _, output, _ = self.run_main(*arguments, "white.jpg")
                self.assertEqual(output[1:], expected)
            _, [output], _ = self.run_main("--json", "white.jpg")
        answer = json.loads(output)
        self.assertEqual(
            answer["sequence"],
            [
                {"label": "person", "probability": 0.25},
                {"label": "caf\u00e9", "probability": 0.5},
            ],
        )
        labels = [pair["label"] for pair in answer["labels"]]
        self.assertEqual(labels, ["caf\u00e9", "dog"])

    def test_empty_sequence_is_an_answer_too(self):
        nothing = np.zeros(0, "float32")
        prediction = Prediction(np.ones(3), ("dog",), np.ones(1), (), nothing)
        with mock.patch.object(Client, "predict", return_value=[prediction]):
            code, output, _ = self.run_main("white.jpg")
            _, [as_json], _ = self.run_main("--json", "white.jpg")
        self.assertEqual(code, 0)
        self.assertEqual(
            output[1:],
            [
                "  the model found no label; --threshold and --top show the "
                "most probable ones"
            ],
        )
        self.assertEqual(json.loads(as_json)["sequence"], [])

    @parameterized.parameters(
        ("missing.jpg", "no such file"),
        (".", "no such file"),
        ("empty.jpg", "0 bytes"),
        ("text.jpg", "failed: Unknown image file format[^\\[]*required\\.$"),
    )
    def test_bad_file_among_good_ones(self, name, message):
        code, output, errors = self.run_main("white.jpg", name, "dark.jpg")
        self.assertEqual(code, 1)
        self.assertIn(str(self.folder / "white.jpg"), output)
        self.assertIn(str(self.folder / "dark.jpg"), output)
        self.assertLen(errors, 1)
        self.assertRegex(errors[0], f"{name}: .*{message}")

    def test_no_good_file_needs_no_server(self):
        code, output, errors = self.run_main("missing.jpg", target=FREE_PORT)
        self.assertEqual((code, output), (1, []))
        self.assertLen(errors, 1)

    def test_unreachable_server(self):
        code, output, errors = self.run_main(
            "white.jpg", "dark.jpg", target=FREE_PORT
        )
        self.assertEqual((code, output), (1, []))
        self.assertLen(errors, 1)
        self.assertRegex(errors[0], f"{FREE_PORT}.*serving.server")

    def test_server_that_goes_away_is_asked_once(self):
        gone = ServingError(grpc.StatusCode.UNAVAILABLE, "gone")
        with mock.patch.object(Client, "predict", side_effect=gone):
            code, _, errors = self.run_main("white.jpg", "dark.jpg")
        self.assertEqual(code, 1)
        self.assertLen(errors, 1)

    def test_unknown_model_and_version(self):
        code, _, errors = self.run_main("--model", "big", "white.jpg")
        self.assertEqual(code, 1)
        self.assertLen(errors, 1)
        self.assertRegex(errors[0], "NOT_FOUND.*'big'.*small")
        code, _, errors = self.run_main("--version", "9", "white.jpg")
        self.assertEqual(code, 1)
        self.assertRegex(errors[0], "NOT_FOUND.*Version 9")
        code, _, errors = self.run_main("--version", str(2**70), "white.jpg")
        self.assertEqual(code, 1)
        self.assertLen(errors, 1)

    @parameterized.parameters(
        ([],),
        (["--thresh", "0.2", "white.jpg"],),  # no abbreviations
        (["--threshold", "50", "white.jpg"],),
        (["--threshold", "0.2", "--top", "1", "white.jpg"],),
        (["--top", "0", "white.jpg"],),
        (["--timeout_seconds", "0", "white.jpg"],),
    )
    def test_bad_arguments(self, arguments):
        with self.assertRaises(SystemExit) as caught:
            self.run_main(*arguments)
        self.assertEqual(caught.exception.code, 2)

    def test_help_is_quick(self):
        # Without TensorFlow, whose import takes seconds.
        process = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "serving.client"]
            + ["--help"],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "COLUMNS": "200"},
        )
        self.assertEqual(process.returncode, 0)
        self.assertIn("example: python -m serving.client", process.stdout)
        self.assertNotIn("tensorflow", process.stderr)
