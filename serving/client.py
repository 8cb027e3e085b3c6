"""Asks a server for the labels of images: JPEG files -> labels over gRPC.

Works against `tensorflow/serving` and against `serving.server`. Needs none of
the models' code, only the names in `serving.signature`.

    python -m serving.client --target localhost:8500 --model csra photo.jpg

is its command line, which is in `serving.ask`.
"""

import dataclasses
import itertools
import json
import sys
from collections.abc import Sequence

import grpc
import numpy as np

from serving import signature

# gRPC repeats a request, with jitter, while the server is unavailable and the
# deadline is ahead. No other error: its answer would be the same.
RETRY_POLICY = {
    "maxAttempts": 5,  # gRPC allows no more
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
MAX_BATCH_SIZE = 32  # images in one message
# With padding, in one message: of VGG-16, 0.4 GB of pooled features.
MAX_REGIONS = 4096
# What a message holds besides the images: names and, per image, a length.
MESSAGE_OVERHEAD_BYTES = 1024
IMAGE_OVERHEAD_BYTES = 8
REGION_BYTES = 16  # four float32
SEQUENCE = signature.SEQUENCE_LABELS, signature.SEQUENCE_PROBABILITIES


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says about one image.

    Args:
        probabilities: float32 array of shape `(num_classes,)`, 0 to 1, in the
            order of `Client.labels`.
        top_labels: tuple of str. The most probable labels, best first.
        top_probabilities: float32 array of shape `(len(top_labels),)`, sorted.
        sequence_labels: tuple of str, or `None`. The labels that the model
            itself says the image has, in the order in which it found them;
            empty if it found none. `None` if the model gives no sequences.
        sequence_probabilities: float32 array of shape
            `(len(sequence_labels),)`, or `None`. How sure it was of each, given
            those before it.
    """

    probabilities: np.ndarray
    top_labels: tuple[str, ...]
    top_probabilities: np.ndarray
    sequence_labels: tuple[str, ...] | None = None
    sequence_probabilities: np.ndarray | None = None


class ServingError(Exception):
    """A request that got no answer.

    Args:
        code: `grpc.StatusCode`. Why, as the server or gRPC says it.
        message: str. What happened, for a person.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(f"{code.name}: {message}")
        self.code = code


class Client:
    """A connection to a server of TensorFlow Serving's gRPC API.

    May be shared between threads. Connects on the first request.

    Args:
        target: str. `host:port` of the server.
        timeout_seconds: float, above 0. Deadline of one message to the
            server, its retries included.
        max_message_bytes: int. Limit of one message, sent or received. The
            server has its own.

    Raises:
        ValueError: If `timeout_seconds` is not above 0.

    Example:

    >>> with Client("localhost:8500", timeout_seconds=2.0) as client:
    ...     client.predict([])  # nothing to ask, so no server is needed
    []
    """

    def __init__(
        self,
        target: str,
        timeout_seconds: float = 30.0,
        max_message_bytes: int = signature.MAX_MESSAGE_BYTES,
    ):
        if timeout_seconds <= 0:
            raise ValueError(
                "`timeout_seconds` must be above 0. "
                f"Received: timeout_seconds={timeout_seconds}"
            )
        # The stubs import all of TensorFlow. Only who asks a server waits for
        # it, not `--help` and not a mistyped file name.
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self.target = target
        self.timeout_seconds = timeout_seconds
        self.max_message_bytes = max_message_bytes
        config = {"methodConfig": [{"name": [{}], "retryPolicy": RETRY_POLICY}]}
        self._channel = grpc.insecure_channel(
            target,
            options=[
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.service_config", json.dumps(config)),
                # A message that does not fit in here is not sent again.
                ("grpc.per_rpc_retry_buffer_size", max_message_bytes),
                # Or a retry would wait for the connection's own, at 1 second.
                ("grpc.initial_reconnect_backoff_ms", 100),
            ],
        )
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(
            self._channel
        )

    def predict(
        self,
        images: Sequence[bytes],
        model: str = "csra",
        version: int | None = None,
        regions: Sequence[np.ndarray] | None = None,
    ) -> list[Prediction]:
        """Asks for the labels of encoded images.

        A list that is too long for one message is sent as several.

        Args:
            images: list of bytes, each the content of a JPEG, PNG or WebP file.
            model: str. Name of the model on the server.
            version: int or `None` for the newest.
            regions: list of float arrays of shape `(num_regions, 4)`, one an
                image, ymin xmin ymax xmax, 0 to 1 of the upright image: where
                a model that takes regions is to look. Their number may differ
                from image to image: rows of zeros follow the shorter ones, up
                to the longest of the call. A model of a fixed number wants
                arrays of just so many. `None` leaves it to the model.

        Returns:
            A list of `Prediction`, one an image, in the order of `images`.

        Raises:
            TypeError: If `images` is not a list of bytes.
            ValueError: If an image is empty or too large to be sent, or
                `regions` are not as above.
            ServingError: If the server does not answer with a prediction;
                nothing is returned then, also of messages that succeeded.
        """
        name, num_regions = signature.SERVING_DEFAULT, 0
        if regions is not None:
            name = signature.REGIONS_SIGNATURE
            regions = _padded(regions, len(images))
            num_regions = regions.shape[1]
        predictions = []
        for batch in self._batches(images, num_regions):
            # As objects, or NumPy cuts off zeros at the end of bytes.
            inputs = {signature.IMAGE_BYTES: np.array(batch, object)}
            if regions is not None:
                start = len(predictions)
                inputs[signature.REGIONS] = regions[start : start + len(batch)]
            outputs = self._call(
                name,
                inputs,
                (
                    signature.PROBABILITIES,
                    signature.TOP_LABELS,
                    signature.TOP_PROBABILITIES,
                ),
                model,
                version,
            )
            fields = [
                outputs[signature.PROBABILITIES],
                map(_decode, outputs[signature.TOP_LABELS]),
                outputs[signature.TOP_PROBABILITIES],
            ]
            if signature.SEQUENCE_LABELS in outputs:
                fields += _without_padding(*(outputs[k] for k in SEQUENCE))
            predictions += map(Prediction, *fields)
        return predictions

    def labels(
        self, model: str = "csra", version: int | None = None
    ) -> tuple[str, ...]:
        """Asks for the names of the model's classes, in class order.

        Args:
            model: str. Name of the model on the server.
            version: int or `None` for the newest.

        Returns:
            A tuple of `num_classes` str.

        Raises:
            ServingError: If the server does not answer with labels.
        """
        outputs = self._call(
            signature.LABELS_SIGNATURE, {}, (signature.LABELS,), model, version
        )
        return _decode(outputs[signature.LABELS])

    def close(self) -> None:
        """Ends the connection; requests that still run are cancelled."""
        self._channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def _batches(self, images, num_regions):
        """Splits a list so that each part fits into one message."""
        limit = self.max_message_bytes - MESSAGE_OVERHEAD_BYTES
        overhead = IMAGE_OVERHEAD_BYTES + num_regions * REGION_BYTES
        max_images = MAX_REGIONS // max(1, num_regions)
        max_images = max(1, min(MAX_BATCH_SIZE, max_images))
        batches, size = [], limit  # full, so that the first image starts one
        for i, image in enumerate(images):
            if not isinstance(image, bytes):
                raise TypeError(
                    "`images` must be a list of bytes, one an image. "
                    f"Received: images[{i}] of type {type(image).__name__}"
                )
            image_size = len(image) + overhead
            if not image or image_size > limit:
                raise ValueError(
                    f"An image must have 1 to {limit - overhead} "
                    "bytes (see `max_message_bytes`). "
                    f"Received: images[{i}] of {len(image)} bytes"
                )
            if size + image_size > limit or len(batches[-1]) == max_images:
                batches.append([])
                size = 0
            batches[-1].append(image)
            size += image_size
        return batches

    def _call(self, signature_name, inputs, needed, model, version):
        """Sends one message of arrays; gives all outputs as arrays."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = signature_name
        if version is not None:
            request.model_spec.version.value = version
        for name, values in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
        try:
            outputs = self._stub.Predict(
                request, timeout=self.timeout_seconds
            ).outputs
        except grpc.RpcError as error:
            raise self._explain(error) from error
        if any(name in outputs for name in SEQUENCE):
            needed = (*needed, *SEQUENCE)  # neither says much alone
        missing = [name for name in needed if name not in outputs]
        if missing:
            raise ServingError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"the model at {self.target} was not made by `export`: it "
                f"lacks the outputs {missing}. Received: {sorted(outputs)}",
            )
        return {name: tf.make_ndarray(outputs[name]) for name in outputs}

    def _explain(self, error):
        message = f"{self.target} answers: {error.details()}"
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            message = (
                f"no server answers at {self.target}. Start one with "
                "`python -m serving.server --model NAME=EXPORT_DIR`. "
                f"gRPC says: {error.details()}"
            )
        elif error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            message = (
                f"{self.target} did not answer in {self.timeout_seconds} s "
                "(`timeout_seconds`)"
            )
        return ServingError(error.code(), message)


def _padded(regions, num_images):
    """Stacks arrays of regions, with rows of zeros after the last of each."""
    if len(regions) != num_images:
        raise ValueError(
            "`regions` must be a list of arrays, one an image. "
            f"Received: {len(regions)} arrays and {num_images} images"
        )
    arrays = []
    for i, rows in enumerate(regions):
        try:
            array = np.asarray(rows, "float32")
        except ValueError as error:  # rows of several lengths
            raise ValueError(
                "`regions` must be arrays of shape (num_regions, 4). "
                f"Received: regions[{i}]={rows}"
            ) from error
        if array.shape == (0,):  # an empty list
            array = array.reshape(0, 4)
        if array.ndim != 2 or array.shape[1] != 4:
            raise ValueError(
                "`regions` must be arrays of shape (num_regions, 4). "
                f"Received: regions[{i}] of shape {array.shape}"
            )
        arrays.append(array)
        # 0 <= ymin <= ymax <= 1, and so with x; false for NaN.
        is_good = (0 <= array[:, :2]) & (array[:, :2] <= array[:, 2:])
        is_good &= array[:, 2:] <= 1
        if not is_good.all():
            row = is_good.all(axis=1).argmin()
            raise ValueError(
                "A region must be ymin xmin ymax xmax, 0 to 1 of the image. "
                f"Received: regions[{i}][{row}]={array[row].tolist()}"
            )
    # At least one row: a server may refuse a tensor without any.
    padded = np.zeros((num_images, max([1, *map(len, arrays)]), 4), "float32")
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded


def _decode(labels):
    return tuple(label.decode() for label in labels)


def _without_padding(labels, probabilities):
    sequences = [_decode(itertools.takewhile(len, row)) for row in labels]
    rows = zip(probabilities, sequences, strict=True)
    return sequences, [row[: len(found)] for row, found in rows]


if __name__ == "__main__":
    from serving import ask

    sys.exit(ask.main())
