"""Tests the embedded server, over gRPC on this machine."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent import futures
from unittest import mock

import grpc
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving import server
from serving.client import Client
from serving.served_model import LoadedVersion
from tests.serving import small_model

AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE
TIMEOUT_SECONDS = 30


def string_tensor(*values):
    return tf.make_tensor_proto(list(values), tf.string)


def float_tensor(*shape):
    return tf.make_tensor_proto(np.zeros(shape, "float32"))


def request(inputs=None, model="small", signature="", version=None, outputs=()):
    """Makes a PredictRequest; by default one that is answered."""
    if inputs is None:
        inputs = {"image_bytes": string_tensor(small_model.jpeg(255))}
    message = predict_pb2.PredictRequest(
        inputs=inputs, output_filter=list(outputs)
    )
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    if version is not None:
        message.model_spec.version.value = version
    return message


def malformed(**fields):
    """Makes a tensor message whose fields contradict each other."""
    shape = fields.pop("shape")
    message = tensor_pb2.TensorProto(**fields)
    for size in shape:
        message.tensor_shape.dim.add(size=size)
    return message


def image(message):
    return request({"image": message}, signature="image")


def photo(message):
    return request({"image_bytes": message})


def regions(**inputs):
    return request(
        {
            "image_bytes": string_tensor(small_model.jpeg(255)),
            "regions": float_tensor(1, 2, 4),
            **inputs,
        },
        signature="regions",
    )


def eventually(condition):
    """Waits until `condition()` holds; says whether it ever did."""
    end = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


FLOAT, STRING = tf.float32.as_datatype_enum, tf.string.as_datatype_enum
# name, request, status code, what its message must name
BAD_REQUESTS = (
    ("no_model", request(model=""), "INVALID_ARGUMENT", "small"),
    ("unknown_model", request(model="big"), "NOT_FOUND", "'big'.*small"),
    ("unknown_version", request(version=8), "NOT_FOUND", "8.*'small'.*7"),
    ("signature", request(signature="x"), "FAILED_PRECONDITION", "'x'.*image"),
    ("missing_input", request({}), "INVALID_ARGUMENT", "image_bytes"),
    (
        "extra_input",
        request({"image_bytes": string_tensor(b"a"), "mask": float_tensor(1)}),
        "INVALID_ARGUMENT",
        "extra.*mask",
    ),
    ("dtype", photo(float_tensor(1)), "INVALID_ARGUMENT", "bytes.*DT_FLOAT"),
    (
        "unknown_dtype",
        image(malformed(dtype=999, shape=[1, 8, 8, 3])),
        "INVALID_ARGUMENT",
        "'image'.*999",
    ),
    (
        "no_dtype",
        image(tensor_pb2.TensorProto()),
        "INVALID_ARGUMENT",
        "DT_INVALID",
    ),
    ("scalar", image(float_tensor()), "INVALID_ARGUMENT", r"'image'.*\(\)"),
    ("vector", image(float_tensor(4)), "INVALID_ARGUMENT", r"'image'.*\(4,\)"),
    ("no_batch", image(float_tensor(8, 8, 3)), "INVALID_ARGUMENT", "'image'"),
    ("rank_5", image(float_tensor(1, 1, 8, 8, 3)), "INVALID_ARGUMENT", "image"),
    ("shape", image(float_tensor(1, 9, 8, 3)), "INVALID_ARGUMENT", "9"),
    ("empty_batch", image(float_tensor(0, 8, 8, 3)), "INVALID_ARGUMENT", "0"),
    ("no_photos", photo(string_tensor()), "INVALID_ARGUMENT", "image_bytes"),
    (
        "unknown_size",
        image(malformed(dtype=FLOAT, shape=[-1, 8, 8, 3])),
        "INVALID_ARGUMENT",
        r"\(-1, 8",
    ),
    (
        "negative_size",
        image(malformed(dtype=FLOAT, shape=[-5, 8, 8, 3], float_val=[0])),
        "INVALID_ARGUMENT",
        "-5",
    ),
    (
        "claims_terabytes",
        image(malformed(dtype=FLOAT, shape=[2**34, 8, 8, 3], float_val=[0])),
        "INVALID_ARGUMENT",
        "more than 268435456 elements",
    ),
    (
        "claims_many_photos",
        photo(malformed(dtype=STRING, shape=[2**20], string_val=[b"a"])),
        "INVALID_ARGUMENT",
        "more than 1 elements",
    ),
    (
        "too_few_bytes",
        image(
            malformed(dtype=FLOAT, shape=[1, 8, 8, 3], tensor_content=b"abc")
        ),
        "INVALID_ARGUMENT",
        "cannot be parsed",
    ),
    (
        "too_many_values",
        image(malformed(dtype=FLOAT, shape=[1, 8, 8, 3], float_val=[0] * 999)),
        "INVALID_ARGUMENT",
        "cannot be parsed",
    ),
    (
        "not_a_photo",
        photo(string_tensor(b"not a JPEG")),
        "INVALID_ARGUMENT",
        "serving_default",
    ),
    (
        "half_a_photo",
        photo(string_tensor(small_model.jpeg(9, 64)[:200])),
        "INVALID_ARGUMENT",
        "serving_default",
    ),
    (
        "one_bad_of_two",
        photo(string_tensor(small_model.jpeg(255), b"")),
        "INVALID_ARGUMENT",
        "serving_default",
    ),
    ("output", request(outputs=["x"]), "INVALID_ARGUMENT", "'x'"),
    (
        "no_regions",
        request(signature="regions"),
        "INVALID_ARGUMENT",
        "Missing: .'regions'",
    ),
    (
        "dtype_of_regions",
        regions(regions=string_tensor(b"a")),
        "INVALID_ARGUMENT",
        "'regions' must be DT_FLOAT.*DT_STRING",
    ),
    (
        "rank_of_regions",
        regions(regions=float_tensor(2, 4)),
        "INVALID_ARGUMENT",
        r"'regions'.*\(2, 4\)",
    ),
    (
        "corners_of_regions",
        regions(regions=float_tensor(1, 2, 5)),
        "INVALID_ARGUMENT",
        r"'regions'.*\(1, 2, 5\)",
    ),
    (
        "regions_of_more_images",
        regions(regions=float_tensor(2, 2, 4)),
        "INVALID_ARGUMENT",
        "'regions' failed",
    ),
    (
        "photo_with_regions",
        regions(image_bytes=float_tensor(1)),
        "INVALID_ARGUMENT",
        "'image_bytes' must be DT_STRING",
    ),
)


class AnswersTest(parameterized.TestCase, tf.test.TestCase):
    """One server for all; each test leaves it able to answer."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        base_path = pathlib.Path(
            cls.enterClassContext(tempfile.TemporaryDirectory())
        )
        small_model.save(base_path, 7)
        (base_path / "8").mkdir()  # still being copied: no saved_model.pb
        shutil.copytree(base_path / "7", base_path / "9.unfinished")
        cls.server = server.Server({"small": base_path}, port=0)
        cls.enterClassContext(cls.server)
        channel = grpc.insecure_channel(cls.server.target)
        cls.addClassCleanup(channel.close)
        cls.prediction = prediction_service_pb2_grpc.PredictionServiceStub(
            channel
        )
        cls.status = model_service_pb2_grpc.ModelServiceStub(channel)

    def predict(self, message):
        return self.prediction.Predict(message, timeout=TIMEOUT_SECONDS)

    def test_predicts(self):
        images = [small_model.jpeg(255), small_model.jpeg(51)]
        response = self.predict(photo(string_tensor(*images)))

        outputs = {
            name: tf.make_ndarray(value)
            for name, value in response.outputs.items()
        }
        self.assertCountEqual(
            outputs, ["probabilities", "top_labels", "top_probabilities"]
        )
        self.assertAllClose(
            outputs["probabilities"], [[0.25, 1, 0.5], [0.05, 0.2, 0.1]]
        )
        self.assertEqual(outputs["probabilities"].dtype, np.float32)
        self.assertEqual(
            outputs["top_labels"].tolist(),
            [[b"person", "caf\u00e9".encode()]] * 2,
        )
        self.assertEqual(response.model_spec.name, "small")
        self.assertEqual(response.model_spec.version.value, 7)
        self.assertEqual(response.model_spec.signature_name, "serving_default")

    def test_other_signatures(self):
        response = self.predict(image(float_tensor(2, 8, 8, 3)))
        self.assertAllEqual(
            tf.make_ndarray(response.outputs["probabilities"]),
            np.zeros((2, 3)),
        )
        response = self.predict(
            regions(regions=tf.make_tensor_proto([[[0.0, 0.5, 0.5, 1.0]]]))
        )
        self.assertAllClose(
            tf.make_ndarray(response.outputs["probabilities"]),
            [[0.0625, 0.25, 0.125]],
        )
        response = self.predict(request({}, signature="labels", version=7))
        labels = tf.make_ndarray(response.outputs["labels"])
        self.assertEqual(
            [label.decode() for label in labels], list(small_model.CLASSES)
        )
        self.assertEqual(response.model_spec.signature_name, "labels")

    def test_a_value_may_stand_for_many(self):
        message = tf.make_tensor_proto(255.0, shape=[1, 8, 8, 3])
        self.assertLen(message.float_val, 1)
        response = self.predict(image(message))
        self.assertAllClose(
            tf.make_ndarray(response.outputs["probabilities"]),
            [[0.25, 1.0, 0.5]],
        )

    def test_output_filter(self):
        response = self.predict(request(outputs=["top_labels"]))
        self.assertEqual(list(response.outputs), ["top_labels"])

    @parameterized.named_parameters(*BAD_REQUESTS)
    def test_bad_request(self, message, code, offender):
        with self.assertRaisesRegex(grpc.RpcError, offender) as caught:
            self.predict(message)
        self.assertEqual(caught.exception.code(), grpc.StatusCode[code])
        self.predict(request())

    def test_version_label(self):
        message = request()
        message.model_spec.version_label = "stable"
        with self.assertRaisesRegex(grpc.RpcError, "stable") as caught:
            self.predict(message)
        self.assertEqual(
            caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT
        )

    def test_unexpected_error(self):
        with mock.patch.object(
            LoadedVersion, "predict", side_effect=KeyError("surprise")
        ):
            with self.assertLogs("grpc", "ERROR"):
                with self.assertRaisesRegex(grpc.RpcError, "surprise") as e:
                    self.predict(request())
        self.assertEqual(e.exception.code(), grpc.StatusCode.UNKNOWN)
        self.predict(request())

    def test_long_error(self):
        # With all of it, gRPC would drop the answer.
        with self.assertRaises(grpc.RpcError) as caught:
            self.predict(request(model="x" * 20_000))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)
        self.assertLen(caught.exception.details(), server.MAX_ERROR_LENGTH)

    def test_other_methods_are_unimplemented(self):
        calls = (
            (
                self.prediction.Classify,
                classification_pb2.ClassificationRequest,
            ),
            (
                self.status.HandleReloadConfigRequest,
                model_management_pb2.ReloadConfigRequest,
            ),
        )
        for method, message in calls:
            with self.assertRaises(grpc.RpcError) as caught:
                method(message(), timeout=TIMEOUT_SECONDS)
            self.assertEqual(
                caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED
            )

    def test_metadata(self):
        message = get_model_metadata_pb2.GetModelMetadataRequest(
            metadata_field=["signature_def"]
        )
        message.model_spec.name = "small"
        response = self.prediction.GetModelMetadata(
            message, timeout=TIMEOUT_SECONDS
        )

        self.assertEqual(response.model_spec.version.value, 7)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        self.assertTrue(response.metadata["signature_def"].Unpack(signatures))
        declared = signatures.signature_def["serving_default"]
        self.assertEqual(declared.inputs["image_bytes"].dtype, STRING)
        self.assertIn("top_labels", declared.outputs)
        self.assertEqual(
            tf.TensorShape(
                signatures.signature_def["image"].inputs["image"].tensor_shape
            ),
            tf.TensorShape([None, 8, 8, 3]),
        )

        message.metadata_field[:] = ["weather"]
        with self.assertRaisesRegex(grpc.RpcError, "weather") as caught:
            self.prediction.GetModelMetadata(message, timeout=TIMEOUT_SECONDS)
        self.assertEqual(
            caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT
        )

    def test_status(self):
        message = get_model_status_pb2.GetModelStatusRequest()
        message.model_spec.name = "small"
        response = self.status.GetModelStatus(message, timeout=TIMEOUT_SECONDS)
        [state] = response.model_version_status
        self.assertEqual((state.version, state.state), (7, AVAILABLE))

        message.model_spec.version.value = 8
        with self.assertRaisesRegex(grpc.RpcError, "8") as caught:
            self.status.GetModelStatus(message, timeout=TIMEOUT_SECONDS)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_message_limit(self):
        limited = server.Server(
            {"small": self.server.models["small"].base_path},
            port=0,
            max_message_bytes=5000,
        )
        with limited, grpc.insecure_channel(limited.target) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            with self.assertRaises(grpc.RpcError) as caught:
                stub.Predict(
                    photo(string_tensor(b"x" * 6000)), timeout=TIMEOUT_SECONDS
                )
            self.assertEqual(
                caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED
            )
            stub.Predict(request(), timeout=TIMEOUT_SECONDS)

    def test_taken_port(self):
        second = server.Server(
            {"small": self.server.models["small"].base_path},
            port=self.server.port,
        )
        with self.assertRaisesRegex(OSError, str(self.server.port)):
            second.start()

    def test_binds_to_this_machine_only(self):
        self.assertStartsWith(self.server.target, "localhost:")
        self.assertStartsWith(server.Server({"m": "x"}).target, "localhost:")


class StartTest(tf.test.TestCase):
    def test_no_version(self):
        path = self.get_temp_dir()
        with self.assertRaisesRegex(FileNotFoundError, f"small={path}"):
            server.Server({"small": path}, port=0).start()

    def test_a_version_is_no_base_path(self):
        path = pathlib.Path(self.get_temp_dir())
        (path / "saved_model.pb").touch()
        with self.assertRaisesRegex(FileNotFoundError, "folder above"):
            server.Server({"small": path}, port=0).start()

    def test_broken_version(self):
        path = pathlib.Path(self.get_temp_dir())
        (path / "3").mkdir()
        (path / "3" / "saved_model.pb").write_bytes(b"not a SavedModel")
        with self.assertLogs("serving.served_model", "ERROR"):
            with self.assertRaisesRegex(RuntimeError, "Version 3.*loaded"):
                server.Server({"small": path}, port=0).start()


def accepts(target):
    """Says whether anybody listens at `host:port`."""
    try:
        socket.create_connection(target.split(":"), TIMEOUT_SECONDS).close()
    except ConnectionError:
        return False
    return True


class SwapTest(tf.test.TestCase):
    def test_swaps_without_dropping_a_request(self):
        base_path = pathlib.Path(self.get_temp_dir())
        small_model.save(base_path, 1)
        embedded = server.Server(
            {"small": base_path}, port=0, poll_seconds=0.05
        )
        seen, done = set(), threading.Event()

        def ask():
            with grpc.insecure_channel(embedded.target) as channel:
                stub = prediction_service_pb2_grpc.PredictionServiceStub(
                    channel
                )
                while not done.is_set():
                    response = stub.Predict(request(), timeout=TIMEOUT_SECONDS)
                    seen.add(response.model_spec.version.value)

        with embedded, futures.ThreadPoolExecutor() as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            try:
                self.assertTrue(eventually(lambda: 1 in seen))
                for version in (2, 10):  # 10 is above 2, though not as text
                    unfinished = base_path / "unfinished"
                    shutil.copytree(base_path / "1", unfinished)
                    unfinished.rename(base_path / str(version))
                    self.assertTrue(eventually(lambda v=version: v in seen))
            finally:
                done.set()
            for asked in asking:
                asked.result()  # raises what a request met
        self.assertEqual(seen, {1, 2, 10})


class CommandLineTest(tf.test.TestCase):
    @pytest.mark.heavy  # starts TensorFlow once more
    def test_finishes_what_runs_on_sigterm(self):
        folder = pathlib.Path(self.get_temp_dir())
        small_model.save(folder, 4, gate=folder)
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.server"]
            + ["--model", f"slow={folder}", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        )
        self.addCleanup(process.communicate)  # closes the pipes
        self.addCleanup(process.kill)
        ready = process.stdout.readline()
        self.assertRegex(
            ready, r"^Serving slow \(version 4\) at localhost:\d+$"
        )
        target = ready.split()[-1]

        with futures.ThreadPoolExecutor() as pool, Client(target) as client:
            answer = pool.submit(
                client.predict, [small_model.jpeg(255)], "slow"
            )
            self.assertTrue(eventually((folder / "started").exists))
            process.send_signal(signal.SIGTERM)
            self.assertTrue(eventually(lambda: not accepts(target)))
            self.assertFalse(answer.done())
            (folder / "go").touch()
            self.assertLen(answer.result(TIMEOUT_SECONDS), 1)
        _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
        self.assertEqual(process.returncode, 0, errors)
        self.assertNotIn("Traceback", errors)

    def test_bad_arguments(self):
        for arguments in (
            [],
            ["--model", "csra"],
            ["--model", "=x"],
            ["--model", "a=x", "--model", "a=y"],
            ["--model", "a=x", "--por", "1"],  # no abbreviations
        ):
            with self.assertRaises(SystemExit) as caught:
                server.main(arguments)
            self.assertEqual(caught.exception.code, 2)

    def test_no_model_there(self):
        signals = signal.SIGINT, signal.SIGTERM
        before = [signal.getsignal(number) for number in signals]
        try:
            code = server.main(["--model", "a=/does/not/exist", "--port", "0"])
        finally:
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)
        self.assertEqual(code, 1)
