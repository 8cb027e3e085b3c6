"""Tests the client against a server that misbehaves, and its command line."""

import contextlib
import io
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from concurrent import futures
from unittest import mock

import grpc
import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving import client as client_module
from serving.client import Client, ServingError
from serving.server import Server
from tests.serving import small_model

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
FREE_PORT = "localhost:1"  # nothing listens there


class FakeService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Fails as told, then answers each image with its own length.

    Args:
        failures: list of `grpc.StatusCode`, one a request.
        seconds: float. Time to answer.
        label: bytes. What it sees in every image.
    """

    def __init__(self, failures=(), seconds=0.0, label=b"length"):
        self.failures = list(failures)
        self.seconds = seconds
        self.label = label
        self.requests = []

    def Predict(self, request, context):
        self.requests.append(request)
        time.sleep(self.seconds)
        if self.failures:
            context.abort(self.failures.pop(0), "the reason")
        images = request.inputs["image_bytes"].string_val
        lengths = np.array([[len(image)] for image in images], "float32")
        response = predict_pb2.PredictResponse()
        for name, value in (
            ("probabilities", lengths),
            ("top_labels", np.array([[self.label]] * len(images), object)),
            ("top_probabilities", lengths),
        ):
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response


@contextlib.contextmanager
def serving(service, max_message_bytes=2**20):
    """Runs a service; gives its target."""
    server = grpc.server(
        futures.ThreadPoolExecutor(4),
        options=[("grpc.max_receive_message_length", max_message_bytes)],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        service, server
    )
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(0).wait()


class ClientTest(parameterized.TestCase, tf.test.TestCase):
    def test_gives_one_prediction_an_image(self):
        service = FakeService()
        with serving(service) as target, Client(target) as client:
            first, second = client.predict([b"12345", b"1\x00\x00"], "gap", 3)
        self.assertAllEqual(first.probabilities, [5])
        self.assertEqual(first.probabilities.dtype, np.float32)
        self.assertEqual(first.top_labels, ("length",))
        self.assertAllEqual(second.top_probabilities, [3])
        [request] = service.requests
        self.assertEqual(request.model_spec.name, "gap")
        self.assertEqual(request.model_spec.version.value, 3)
        self.assertEqual(request.model_spec.signature_name, "serving_default")

    def test_newest_version_unless_told_otherwise(self):
        service = FakeService()
        with serving(service) as target, Client(target) as client:
            client.predict([b"1"])
        self.assertFalse(service.requests[0].model_spec.HasField("version"))

    def test_splits_by_number(self):
        service = FakeService()
        images = [b"x" * (1 + i) for i in range(7)]
        with serving(service) as target:
            with Client(target, max_batch_size=3) as client:
                predictions = client.predict(images)
        self.assertEqual(
            [int(p.probabilities[0]) for p in predictions], list(range(1, 8))
        )
        self.assertEqual(batch_sizes(service), [3, 3, 1])

    def test_splits_by_size(self):
        # The server's limit is the client's: no message may exceed it.
        service = FakeService()
        limit = 10_000
        largest = (
            limit
            - client_module.MESSAGE_OVERHEAD_BYTES
            - client_module.IMAGE_OVERHEAD_BYTES
        )
        sizes = [largest, 1, largest, 4000, 4000, 4000] + [1] * 300
        with serving(service, limit) as target:
            with Client(
                target, max_message_bytes=limit, max_batch_size=1000
            ) as client:
                predictions = client.predict([b"x" * size for size in sizes])
                with self.assertRaisesRegex(
                    ValueError, rf"Received: images\[1\] of {largest + 1}"
                ):
                    client.predict([b"x", b"x" * (largest + 1)])
        self.assertEqual([int(p.probabilities[0]) for p in predictions], sizes)
        self.assertEqual(batch_sizes(service), [1, 1, 1, 2, 301])

    def test_too_large_an_answer(self):
        with serving(FakeService(label=b"x" * 5000)) as target:
            with Client(target, max_message_bytes=4000) as client:
                with self.assertRaisesRegex(ServingError, "larger") as caught:
                    client.predict([b"x"])
        self.assertEqual(
            caught.exception.code, grpc.StatusCode.RESOURCE_EXHAUSTED
        )

    def test_an_answer_without_labels(self):
        with serving(FakeService()) as target, Client(target) as client:
            with self.assertRaisesRegex(ServingError, "no output 'labels'"):
                client.labels()

    @parameterized.parameters(0, 1, 2)
    def test_retries_while_unavailable(self, num_failures):
        service = FakeService([UNAVAILABLE] * num_failures)
        with serving(service) as target, Client(target, retries=2) as client:
            self.assertLen(client.predict([b"x"]), 1)
        self.assertLen(service.requests, num_failures + 1)

    def test_gives_up_after_the_retries(self):
        service = FakeService([UNAVAILABLE] * 9)
        with serving(service) as target, Client(target, retries=2) as client:
            with self.assertRaisesRegex(ServingError, target) as caught:
                client.predict([b"x"])
        self.assertEqual(caught.exception.code, UNAVAILABLE)
        self.assertLen(service.requests, 3)

    @parameterized.parameters(
        "NOT_FOUND", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "INTERNAL"
    )
    def test_retries_nothing_else(self, name):
        service = FakeService([grpc.StatusCode[name]])
        with serving(service) as target, Client(target) as client:
            with self.assertRaisesRegex(ServingError, "the reason") as caught:
                client.predict([b"x"])
        self.assertEqual(caught.exception.code, grpc.StatusCode[name])
        self.assertLen(service.requests, 1)

    def test_deadline(self):
        with serving(FakeService(seconds=1.0)) as target:
            with Client(target, timeout_seconds=0.2) as client:
                with self.assertRaisesRegex(ServingError, "0.2 s") as caught:
                    client.predict([b"x"])
        self.assertEqual(
            caught.exception.code, grpc.StatusCode.DEADLINE_EXCEEDED
        )

    @mock.patch.object(client_module, "FIRST_BACKOFF_SECONDS", 0.2)
    @mock.patch.object(random, "uniform", return_value=1.0)
    def test_retries_end_with_the_deadline(self, _):
        # At 0, 0.2 and 0.6 s; the next would be at 1.4 s. The error is the
        # server's and not the deadline's, which says less.
        service = FakeService([UNAVAILABLE] * 1000)
        with serving(service) as target:
            with Client(target, timeout_seconds=1.0, retries=1000) as client:
                with self.assertRaises(ServingError) as caught:
                    client.predict([b"x"])
        self.assertEqual(caught.exception.code, UNAVAILABLE)
        self.assertLen(service.requests, 3)

    def test_says_how_to_start_a_server(self):
        with Client(FREE_PORT, retries=1) as client:
            with self.assertRaisesRegex(
                ServingError, f"{FREE_PORT}.*serving.server --model"
            ) as caught:
                client.predict([b"x"])
        self.assertEqual(caught.exception.code, UNAVAILABLE)

    def test_nothing_to_ask(self):
        with Client(FREE_PORT) as client:
            self.assertEqual(client.predict([]), [])

    @parameterized.parameters(
        (b"one image", TypeError, "type bytes"),
        (["path.jpg"], TypeError, r"images\[0\] of type str"),
        ([b"x", b""], ValueError, r"images\[1\]=b''"),
    )
    def test_bad_images(self, images, error, message):
        with Client(FREE_PORT) as client:
            with self.assertRaisesRegex(error, message):
                client.predict(images)

    @parameterized.parameters(
        {"timeout_seconds": 0},
        {"retries": -1},
        {"max_batch_size": 0},
        {"max_message_bytes": 10},
    )
    def test_bad_arguments(self, **arguments):
        [(name, value)] = arguments.items()
        with self.assertRaisesRegex(ValueError, f"Received: {name}={value}"):
            Client(FREE_PORT, **arguments)


def batch_sizes(service):
    return [
        len(request.inputs["image_bytes"].string_val)
        for request in service.requests
    ]


class CommandLineTest(parameterized.TestCase, tf.test.TestCase):
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
                code = client_module.main(
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

    @parameterized.parameters(
        ("missing.jpg", "No such file"),
        (".", "Is a directory"),
        ("empty.jpg", "empty"),
        ("text.jpg", "INVALID_ARGUMENT"),
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

    @mock.patch.object(client_module, "FIRST_BACKOFF_SECONDS", 0.01)
    def test_unreachable_server(self):
        code, output, errors = self.run_main(
            "white.jpg", "dark.jpg", target=FREE_PORT
        )
        self.assertEqual((code, output), (1, []))
        self.assertLen(errors, 1)
        self.assertRegex(errors[0], f"{FREE_PORT}.*serving.server")

    def test_server_that_goes_away_is_asked_once(self):
        gone = ServingError(UNAVAILABLE, "gone")
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
