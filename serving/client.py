"""Asks a server for the labels of images: JPEG files -> labels over gRPC.

Works against `tensorflow/serving` and against `serving.server`. Needs none of
the models' code, only the names in `serving.signature`.

    python -m serving.client --target localhost:8500 --model csra photo.jpg
"""

import argparse
import dataclasses
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence

import grpc
import numpy as np

from serving import signature

FIRST_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 2.0
# What a message holds besides the images: names and, per image, a length.
MESSAGE_OVERHEAD_BYTES = 1024
IMAGE_OVERHEAD_BYTES = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says about one image.

    Args:
        probabilities: float32 array of shape `(num_classes,)`, 0 to 1, in the
            order of `Client.labels`.
        top_labels: tuple of str. The most probable labels, best first.
        top_probabilities: float32 array of shape `(len(top_labels),)`, sorted.
    """

    probabilities: np.ndarray
    top_labels: tuple[str, ...]
    top_probabilities: np.ndarray


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
        retries: int, at least 0. How often a message is sent again while the
            server is unavailable, with exponential back-off and jitter. No
            other error is retried: its answer would be the same.
        max_batch_size: int, at least 1. Images in one message.
        max_message_bytes: int. Limit of one message, sent or received. The
            server has its own.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> with Client("localhost:8500", timeout_seconds=2.0) as client:
    ...     client.predict([])  # nothing to ask, so no server is needed
    []
    """

    def __init__(
        self,
        target: str,
        timeout_seconds: float = 30.0,
        retries: int = 4,
        max_batch_size: int = 32,
        max_message_bytes: int = signature.MAX_MESSAGE_BYTES,
    ):
        if timeout_seconds <= 0:
            raise ValueError(
                "`timeout_seconds` must be above 0. "
                f"Received: timeout_seconds={timeout_seconds}"
            )
        if retries < 0:
            raise ValueError(
                f"`retries` must be at least 0. Received: retries={retries}"
            )
        if max_batch_size < 1:
            raise ValueError(
                "`max_batch_size` must be at least 1. "
                f"Received: max_batch_size={max_batch_size}"
            )
        if max_message_bytes <= MESSAGE_OVERHEAD_BYTES:
            raise ValueError(
                f"`max_message_bytes` must be above {MESSAGE_OVERHEAD_BYTES}. "
                f"Received: max_message_bytes={max_message_bytes}"
            )
        # The stubs import all of TensorFlow. Only who asks a server waits for
        # it, not `--help` and not a mistyped file name.
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self.target = target
        self.timeout_seconds = timeout_seconds
        self.retries = retries
        self.max_batch_size = max_batch_size
        self.max_message_bytes = max_message_bytes
        self._channel = grpc.insecure_channel(
            target,
            options=[
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.max_receive_message_length", max_message_bytes),
                # A channel fails at once until its own back-off is over, by
                # default one second; ours decides when to try again.
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.min_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 500),
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
    ) -> list[Prediction]:
        """Asks for the labels of encoded images.

        A list that is too long for one message is sent as several.

        Args:
            images: list of bytes, each the content of a JPEG or PNG file.
            model: str. Name of the model on the server.
            version: int or `None` for the newest.

        Returns:
            A list of `Prediction`, one an image, in the order of `images`.

        Raises:
            TypeError: If `images` is not a list of bytes.
            ValueError: If an image is empty or too large to be sent.
            ServingError: If the server does not answer with a prediction;
                nothing is returned then, also of messages that succeeded.
        """
        self._check_images(images)
        predictions = []
        for batch in self._batches(images):
            outputs = self._call(
                signature.SERVING_DEFAULT,
                {signature.IMAGE_BYTES: batch},
                model,
                version,
            )
            for probabilities, top_labels, top_probabilities in zip(
                self._output(outputs, signature.PROBABILITIES),
                self._output(outputs, signature.TOP_LABELS),
                self._output(outputs, signature.TOP_PROBABILITIES),
                strict=True,
            ):
                predictions.append(
                    Prediction(
                        probabilities,
                        tuple(label.decode() for label in top_labels),
                        top_probabilities,
                    )
                )
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
        outputs = self._call(signature.LABELS_SIGNATURE, {}, model, version)
        labels = self._output(outputs, signature.LABELS)
        return tuple(label.decode() for label in labels)

    def close(self) -> None:
        """Ends the connection; requests that still run are cancelled."""
        self._channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def _check_images(self, images):
        if isinstance(images, bytes | str):
            raise TypeError(
                "`images` must be a list of bytes, one an image. "
                f"Received: images of type {type(images).__name__}"
            )
        limit = (
            self.max_message_bytes
            - MESSAGE_OVERHEAD_BYTES
            - IMAGE_OVERHEAD_BYTES
        )
        for i, image in enumerate(images):
            if not isinstance(image, bytes):
                raise TypeError(
                    "`images` must be a list of bytes, one an image. "
                    f"Received: images[{i}] of type {type(image).__name__}"
                )
            if not image:
                raise ValueError(
                    "An image must be the content of a JPEG or PNG file. "
                    f"Received: images[{i}]=b''"
                )
            if len(image) > limit:
                raise ValueError(
                    f"An image may have {limit} bytes, a message "
                    f"{self.max_message_bytes} (`max_message_bytes`). "
                    f"Received: images[{i}] of {len(image)} bytes"
                )

    def _batches(self, images) -> Iterator[list[bytes]]:
        """Splits a list so that each part fits into one message."""
        limit = self.max_message_bytes - MESSAGE_OVERHEAD_BYTES
        batch, size = [], 0
        for image in images:
            image_size = len(image) + IMAGE_OVERHEAD_BYTES
            if batch and (
                len(batch) == self.max_batch_size or size + image_size > limit
            ):
                yield batch
                batch, size = [], 0
            batch.append(image)
            size += image_size
        if batch:
            yield batch

    def _call(self, signature_name, strings, model, version):
        """Sends one message, again while the server is unavailable."""
        from tensorflow.core.framework import types_pb2
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = signature_name
        if version is not None:
            request.model_spec.version.value = version
        for name, values in strings.items():
            request.inputs[name].dtype = types_pb2.DT_STRING
            request.inputs[name].tensor_shape.dim.add(size=len(values))
            request.inputs[name].string_val.extend(values)

        deadline = time.monotonic() + self.timeout_seconds
        attempt = 0
        while True:
            try:
                remaining = deadline - time.monotonic()
                return self._stub.Predict(request, timeout=remaining).outputs
            except grpc.RpcError as error:
                backoff = min(
                    FIRST_BACKOFF_SECONDS * 2**attempt, MAX_BACKOFF_SECONDS
                )
                # Jitter, or clients that failed together return together.
                backoff *= random.uniform(0.5, 1.5)
                attempt += 1
                if (
                    error.code() is not grpc.StatusCode.UNAVAILABLE
                    or attempt > self.retries
                    or time.monotonic() + backoff >= deadline
                ):
                    raise self._explain(error, attempt) from error
            time.sleep(backoff)

    def _explain(self, error, attempts):
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            message = (
                f"no server answers at {self.target} (attempts: {attempts}). "
                "Start one with `python -m serving.server "
                f"--model NAME=EXPORT_DIR`. gRPC says: {error.details()}"
            )
        elif error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            message = (
                f"{self.target} did not answer in {self.timeout_seconds} s "
                "(`timeout_seconds`)"
            )
        else:
            message = f"{self.target} answers: {error.details()}"
        return ServingError(error.code(), message)

    def _output(self, outputs, name):
        from tensorflow import make_ndarray

        if name not in outputs:
            raise ServingError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"the model at {self.target} was not exported by `export`: "
                f"it has no output {name!r}. Received: {sorted(outputs)}",
            )
        return make_ndarray(outputs[name])


# Errors that are about one image; after any other, the next would fail too.
IMAGE_ERRORS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m serving.client",
        description="Asks a server for the labels of image files.",
        epilog="example: python -m serving.client --target localhost:8500 "
        "--model csra photo.jpg holiday/*.jpg",
        allow_abbrev=False,
    )
    parser.add_argument("images", nargs="+", help="JPEG or PNG files")
    parser.add_argument(
        "--target",
        default="localhost:8500",
        help="host:port of the server (default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        default="csra",
        help="name of the model on the server (default: %(default)s)",
    )
    parser.add_argument(
        "--version", type=int, help="version of the model (default: newest)"
    )
    parser.add_argument(
        "--timeout_seconds",
        type=float,
        default=30.0,
        help="longest wait for one image (default: %(default)s)",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="lowest probability to print, 0 to 1 (default: %(default)s)",
    )
    chosen.add_argument(
        "--top",
        type=int,
        help="print so many labels, whatever their probability",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object a file"
    )
    return parser


def _is_readable(path):
    """Says on stderr why not."""
    try:
        with open(path, "rb") as file:
            if file.read(1):
                return True
        problem = "The file is empty"
    except OSError as error:
        problem = error.strerror
    print(f"{path}: {problem}", file=sys.stderr)
    return False


def _print_labels(path, labels, as_json):
    """Prints pairs of label and probability."""
    if as_json:
        pairs = [
            {"label": label, "probability": probability}
            for label, probability in labels
        ]
        print(json.dumps({"file": path, "labels": pairs}), flush=True)
        return
    print(path)
    width = max((len(label) for label, _ in labels), default=0)
    for label, probability in labels:
        print(f"  {label:{width}}  {probability:.3f}", flush=True)
    if not labels:
        print("  no label is probable enough, see --threshold and --top")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: list of str, or `None` for the command line's.

    Returns:
        The exit code: 0, or 1 if any file has no answer.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if not 0 <= args.threshold <= 1:
        parser.error(f"--threshold must be in 0 to 1, not {args.threshold}")
    if args.top is not None and args.top < 1:
        parser.error(f"--top must be at least 1, not {args.top}")
    if args.timeout_seconds <= 0:
        parser.error(
            f"--timeout_seconds must be above 0, not {args.timeout_seconds}"
        )

    paths = [path for path in args.images if _is_readable(path)]
    if not paths:
        return 1
    failed = len(paths) < len(args.images)
    with Client(args.target, args.timeout_seconds) as client:
        try:
            names = client.labels(args.model, args.version)
        except (ServingError, ValueError) as error:
            print(f"error: {_one_line(error)}", file=sys.stderr)
            return 1
        for path in paths:
            # One file a message, so that an error names the file.
            try:
                with open(path, "rb") as file:
                    [prediction] = client.predict(
                        [file.read()], args.model, args.version
                    )
            except (OSError, ValueError, ServingError) as error:
                print(f"{path}: {_one_line(error)}", file=sys.stderr)
                failed = True
                if (
                    isinstance(error, ServingError)
                    and error.code not in IMAGE_ERRORS
                ):
                    break
                continue
            pairs = zip(names, prediction.probabilities.tolist(), strict=True)
            labels = sorted(pairs, key=lambda pair: -pair[1])
            if args.top is not None:
                labels = labels[: args.top]
            else:
                labels = [pair for pair in labels if pair[1] >= args.threshold]
            _print_labels(path, labels, args.json)
    return int(failed)


def _one_line(error):
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
