"""Tests the client against a server that misbehaves."""

import contextlib
import threading
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

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
FREE_PORT = "localhost:1"  # nothing listens there
TIMEOUT_SECONDS = 30


class FakeService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Fails as told, then answers each image with its own length.

    Args:
        failures: list of `grpc.StatusCode`, one a request.
        label: bytes. What it sees in every image.
        outputs: dict of name to array, given besides.
    """

    def __init__(self, failures=(), label=b"length", outputs=None):
        self.failures = list(failures)
        self.label = label
        self.outputs = outputs or {}
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.requests = []
        self.seconds_left = []

    def Predict(self, request, context):
        self.requests.append(request)
        self.seconds_left.append(context.time_remaining())
        self.may_answer.wait(TIMEOUT_SECONDS)
        if self.failures:
            context.abort(self.failures.pop(0), "the reason")
        images = request.inputs["image_bytes"].string_val
        lengths = np.array([[len(image)] for image in images], "float32")
        response = predict_pb2.PredictResponse()
        for name, value in (
            ("probabilities", lengths),
            ("top_labels", np.array([[self.label]] * len(images), object)),
            ("top_probabilities", lengths),
            *self.outputs.items(),
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
        self.assertIsNone(first.sequence_labels)
        self.assertIsNone(first.sequence_probabilities)
        [request] = service.requests
        self.assertEqual(request.model_spec.name, "gap")
        self.assertEqual(request.model_spec.version.value, 3)
        self.assertEqual(request.model_spec.signature_name, "serving_default")

    def test_cuts_sequences_where_their_padding_starts(self):
        labels = [[b"sea", b"fish"], [b"caf\xc3\xa9", b""], [b"", b"sea"]]
        outputs = {
            "sequence_labels": np.array(labels, object),
            "sequence_probabilities": np.float32([[0.6, 0.9], [0, 0], [0, 1]]),
        }
        service = FakeService(outputs=outputs)
        with serving(service) as target, Client(target) as client:
            both, one, none = client.predict([b"x"] * 3)
        self.assertEqual(both.sequence_labels, ("sea", "fish"))
        self.assertAllClose(both.sequence_probabilities, [0.6, 0.9])
        self.assertEqual(one.sequence_labels, ("caf\u00e9",))
        self.assertAllEqual(one.sequence_probabilities, [0])
        self.assertEqual(none.sequence_labels, ())
        self.assertEqual(none.sequence_probabilities.shape, (0,))

    @parameterized.parameters(
        ("sequence_labels", "sequence_probabilities"),
        ("sequence_probabilities", "sequence_labels"),
    )
    def test_half_a_sequence(self, given, lacking):
        service = FakeService(outputs={given: np.zeros((1, 1), "float32")})
        with serving(service) as target, Client(target) as client:
            with self.assertRaisesRegex(
                ServingError, rf"lacks the outputs \['{lacking}'\]"
            ):
                client.predict([b"x"])

    def test_pads_regions(self):
        service = FakeService()
        whole, half = [[0, 0, 1, 1]], np.array([[0, 0, 1, 0.5], [0, 0.5, 1, 1]])
        with serving(service) as target, Client(target) as client:
            answers = client.predict([b"1", b"22"], regions=[whole, half])
            client.predict([b"1"], "rgnn", 3, regions=[np.zeros((0, 4))])
            client.predict([b"1", b"22"], regions=[[], whole])
        self.assertAllEqual([a.probabilities[0] for a in answers], [1, 2])
        first, second, third = service.requests
        self.assertEqual(first.model_spec.signature_name, "regions")
        self.assertEqual(second.model_spec.version.value, 3)
        sent = tf.make_ndarray(first.inputs["regions"])
        self.assertDTypeEqual(sent, "float32")
        self.assertAllEqual(sent, [[*whole, [0] * 4], half])
        sent = tf.make_ndarray(second.inputs["regions"])
        self.assertAllEqual(sent, np.zeros((1, 1, 4)))
        sent = tf.make_ndarray(third.inputs["regions"])
        self.assertAllEqual(sent, [[[0] * 4], whole])

    def test_sends_its_deadline(self):
        service = FakeService()
        with serving(service) as target:
            with Client(target, timeout_seconds=900) as client:
                client.predict([b"1"])
        self.assertBetween(service.seconds_left[0], 800, 910)  # rounded

    def test_newest_version_unless_told_otherwise(self):
        service = FakeService()
        with serving(service) as target, Client(target) as client:
            client.predict([b"1"])
        self.assertFalse(service.requests[0].model_spec.HasField("version"))

    def test_splits_by_number(self):
        service = FakeService()
        images = [b"x" * (1 + i) for i in range(7)]
        with serving(service) as target:
            with mock.patch.object(client_module, "MAX_BATCH_SIZE", 3):
                with Client(target) as client:
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
        sizes = [largest, 1, largest, 4000, 4000, 4000] + [1] * 30
        with serving(service, limit) as target:
            with Client(target, max_message_bytes=limit) as client:
                predictions = client.predict([b"x" * size for size in sizes])
                with self.assertRaisesRegex(
                    ValueError, rf"Received: images\[1\] of {largest + 1}"
                ):
                    client.predict([b"x", b"x" * (largest + 1)])
        self.assertEqual([int(p.probabilities[0]) for p in predictions], sizes)
        self.assertEqual(batch_sizes(service), [1, 1, 1, 2, 31])

    def test_splits_regions_with_their_images(self):
        service = FakeService()
        regions = [np.full((1 + i % 3, 4), i / 9) for i in range(9)]
        images = [b"x" * (1 + i) for i in range(9)]
        with serving(service) as target, Client(target) as client:
            with mock.patch.object(client_module, "MAX_REGIONS", 13):
                client.predict(images, regions=regions)
            self.assertEqual(batch_sizes(service), [4, 4, 1])  # of 3 regions
            sent = np.concatenate(
                [tf.make_ndarray(r.inputs["regions"]) for r in service.requests]
            )
            self.assertAllEqual(
                sent[:, 0, 0], np.float32([r[0, 0] for r in regions])
            )
            with mock.patch.object(client_module, "MAX_REGIONS", 2):
                client.predict(images[:2], regions=regions[1:3])
        self.assertEqual(batch_sizes(service), [4, 4, 1, 1, 1])

    def test_splits_by_size_of_regions(self):
        service, limit = FakeService(), 100_000
        regions = [np.zeros((3000, 4))] * 3
        with serving(service, limit) as target:
            with Client(target, max_message_bytes=limit) as client:
                client.predict([b"x"] * 3, regions=regions)
                with self.assertRaisesRegex(ValueError, "1 to 50968 bytes"):
                    client.predict([b"x" * 50_969], regions=regions[:1])
        self.assertEqual(batch_sizes(service), [1, 1, 1])

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
            with self.assertRaisesRegex(ServingError, r"lacks .*\['labels'\]"):
                client.labels()

    @parameterized.parameters((0, 1), (1, 1), (4, 1), (2, 2**22))
    def test_retries_while_unavailable(self, num_failures, size):
        service = FakeService([UNAVAILABLE] * num_failures)
        with serving(service, 2**23) as target, Client(target) as client:
            self.assertLen(client.predict([b"x" * size]), 1)
        self.assertLen(service.requests, num_failures + 1)

    def test_gives_up_after_the_retries(self):
        service = FakeService([UNAVAILABLE] * 9)
        with serving(service) as target, Client(target) as client:
            with self.assertRaisesRegex(ServingError, target) as caught:
                client.predict([b"x"])
        self.assertEqual(caught.exception.code, UNAVAILABLE)
        self.assertLen(service.requests, 5)

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
        service = FakeService()
        service.may_answer.clear()
        self.addCleanup(service.may_answer.set)
        with serving(service) as target:
            with Client(target, timeout_seconds=0.2) as client:
                with self.assertRaisesRegex(ServingError, "0.2 s") as caught:
                    client.predict([b"x"])
        self.assertEqual(
            caught.exception.code, grpc.StatusCode.DEADLINE_EXCEEDED
        )

    def test_says_how_to_start_a_server(self):
        with Client(FREE_PORT) as client:
            with self.assertRaisesRegex(
                ServingError, f"{FREE_PORT}.*serving.server --model"
            ) as caught:
                client.predict([b"x"])
        self.assertEqual(caught.exception.code, UNAVAILABLE)

    def test_nothing_to_ask(self):
        with Client(FREE_PORT) as client:
            self.assertEqual(client.predict([]), [])

    @parameterized.parameters(
        (b"one image", TypeError, r"images\[0\] of type int"),
        (["path.jpg"], TypeError, r"images\[0\] of type str"),
        ([b"x", b""], ValueError, r"images\[1\] of 0 bytes"),
    )
    def test_bad_images(self, images, error, message):
        with Client(FREE_PORT) as client:
            with self.assertRaisesRegex(error, message):
                client.predict(images)

    @parameterized.parameters(
        ([], "Received: 0 arrays and 1 images"),
        ([[0, 0, 1, 1]], r"Received: regions\[0\] of shape \(4,\)"),
        ([[[0, 0, 1, 1], [0, 1]]], r"4\). Received: regions\[0\]=\[\[0, 0, 1"),
        ([np.zeros((3, 5))], r"Received: regions\[0\] of shape \(3, 5\)"),
        ([[[0, 0, 0, 0], [0, 0, 32, 64]]], r"\[0\]\[1\]=\[0.0, 0.0, 32.0, 64"),
        ([[[-0.5, 0, 1, 1]]], r"0 to 1.*\[0\]\[0\]=\[-0.5"),
        ([[[0.5, 0.5, 0.25, 1]]], "ymin xmin ymax xmax.*0.25"),
        ([[[0, 0, np.nan, 1]]], "nan"),
    )
    def test_bad_regions(self, regions, message):
        with Client(FREE_PORT) as client:
            with self.assertRaisesRegex(ValueError, message):
                client.predict([b"x"], regions=regions)

    def test_bad_timeout(self):
        with self.assertRaisesRegex(ValueError, "Received: timeout_seconds=0"):
            Client(FREE_PORT, timeout_seconds=0)


def batch_sizes(service):
    return [
        len(request.inputs["image_bytes"].string_val)
        for request in service.requests
    ]
