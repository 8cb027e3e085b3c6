"""Embedded server for development and tests: gRPC in, gRPC out.

Speaks the gRPC API of TensorFlow Serving on its own stubs and answers errors
with its status codes, so that a client cannot tell the two apart. **It is no
replacement for it**: production runs the real `tensorflow/serving`, which
batches requests, serves REST, TLS and metrics, and is not written in Python.

    python -m serving.server --model csra=runs/x/export/csra --port 8500
"""

import argparse
import functools
import logging
import pathlib
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent import futures

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving import signature
from serving.served_model import RequestError, ServedModel

logger = logging.getLogger(__name__)

NUM_THREADS = 8  # requests that run at the same time
MAX_ERROR_LENGTH = 2000  # characters; gRPC drops an answer with over 8 KiB


def _answers_errors(method):
    """Turns a `RequestError` into its status; gRPC does so for the rest."""

    @functools.wraps(method)
    def answer(self, request, context):
        try:
            return method(self, request)
        except RequestError as error:
            context.abort(error.code, str(error)[:MAX_ERROR_LENGTH])

    return answer


class Services(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """Answers Predict, GetModelMetadata and GetModelStatus.

    The other methods of the two services are UNIMPLEMENTED.

    Args:
        models: dict of name to `ServedModel`.
    """

    def __init__(self, models: Mapping[str, ServedModel]):
        self._models = models

    @_answers_errors
    def Predict(self, request):
        """Runs one signature of one model."""
        model, number = self._find(request.model_spec)
        response = model.version(number).predict(request)
        response.model_spec.name = model.name
        return response

    @_answers_errors
    def GetModelMetadata(self, request):
        """Gives the signatures of one model."""
        if list(request.metadata_field) != ["signature_def"]:
            raise RequestError(
                "`metadata_field` must be 'signature_def'. "
                f"Received: metadata_field={list(request.metadata_field)}"
            )
        model, number = self._find(request.model_spec)
        version = model.version(number)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = model.name
        response.model_spec.version.value = version.number
        response.metadata["signature_def"].Pack(version.signatures)
        return response

    @_answers_errors
    def GetModelStatus(self, request):
        """Gives the state of the versions of one model."""
        model, number = self._find(request.model_spec)
        states = model.states()
        if number is not None:
            states = [state for state in states if state.version == number]
        if not states:
            raise RequestError(
                f"Version {number} of model {model.name!r} does not exist.",
                grpc.StatusCode.NOT_FOUND,
            )
        return get_model_status_pb2.GetModelStatusResponse(
            model_version_status=states
        )

    def _find(self, model_spec):
        """Gives the model and the version number, or `None`, of a request."""
        served = f"Served: {sorted(self._models)}"
        if not model_spec.name:
            raise RequestError(f"A request must name a model. {served}")
        if model_spec.name not in self._models:
            raise RequestError(
                f"Model {model_spec.name!r} is not served. {served}",
                grpc.StatusCode.NOT_FOUND,
            )
        if model_spec.version_label:
            raise RequestError(
                "This server knows versions by number only. "
                f"Received: version_label={model_spec.version_label!r}"
            )
        has_version = model_spec.HasField("version")
        number = model_spec.version.value if has_version else None
        return self._models[model_spec.name], number


class Server:
    """Serves models from disk until it is stopped.

    Args:
        models: dict of model name to base path, see `ServedModel`.
        port: int. 0 takes any free one, see `target`.
        host: str. The default can be reached from this machine only;
            "0.0.0.0" from everywhere, without encryption or passwords.
        poll_seconds: float, above 0. Time between looks for new versions.
        max_message_bytes: int. Limit of one message, received or sent.

    Example:

    >>> Server({"csra": "runs/x/export/csra"}, port=8500).target
    'localhost:8500'
    """

    def __init__(
        self,
        models: Mapping[str, str | pathlib.Path],
        port: int = 8500,
        host: str = "localhost",
        poll_seconds: float = 1.0,
        max_message_bytes: int = signature.MAX_MESSAGE_BYTES,
    ):
        self.models = {
            name: ServedModel(name, path) for name, path in models.items()
        }
        self.host = host
        self.port = port
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._poller = threading.Thread(target=self._poll, daemon=True)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(NUM_THREADS),
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes),
                # Or two servers could share a port without a word.
                ("grpc.so_reuseport", 0),
            ],
        )
        services = Services(self.models)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            services, self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            services, self._server
        )

    @property
    def target(self) -> str:
        """What a client connects to, `host:port`."""
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        """Loads the models and begins to answer.

        Raises:
            OSError: If the port is taken, or a base path holds no version.
            RuntimeError: If a model cannot be loaded.
        """
        try:
            self.port = self._server.add_insecure_port(self.target)
        except RuntimeError as error:
            raise OSError(
                f"Cannot listen at {self.target}; is another server running?"
            ) from error
        try:
            for model in self.models.values():
                model.load()
        except (OSError, RuntimeError):
            self.stop(grace_seconds=0)  # frees the port
            raise
        self._server.start()
        self._poller.start()

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Finishes what runs and frees the port.

        Args:
            grace_seconds: float. Requests that run longer are cancelled.
        """
        self._stopping.set()
        self._server.stop(grace_seconds).wait()
        if self._poller.is_alive():
            self._poller.join()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exception):
        self.stop()

    def _poll(self):
        while not self._stopping.wait(self._poll_seconds):
            for model in self.models.values():
                try:
                    model.refresh()
                except Exception:  # a disk that comes back should be seen
                    logger.exception("Cannot look for %s", model.name)


def _parse(argv):
    parser = argparse.ArgumentParser(
        prog="python -m serving.server",
        description="Serves models over TensorFlow Serving's gRPC API, for "
        "development and tests. Production runs tensorflow/serving.",
        epilog="example: python -m serving.server "
        "--model csra=runs/x/export/csra --model gap=runs/y/export/gap",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="NAME=BASE_PATH",
        help="a model and the folder that holds its versions; may be repeated",
    )
    parser.add_argument(
        "--port", type=int, default=8500, help="0 takes any (default: 8500)"
    )
    parser.add_argument(
        "--host",
        default="localhost",
        help="0.0.0.0 lets other machines in (default: localhost)",
    )
    args = parser.parse_args(argv)
    models = {}
    for text in args.model:
        name, _, path = text.partition("=")
        if not name or not path:
            parser.error(f"--model must be NAME=BASE_PATH, not {text!r}")
        if name in models:
            parser.error(f"--model {name} is given twice")
        models[name] = path
    return models, args.port, args.host


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line until SIGTERM or SIGINT.

    Args:
        argv: list of str, or `None` for the command line's.

    Returns:
        The exit code: 0, or 1 if the server could not start.
    """
    server = Server(*_parse(argv))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    stopping = threading.Event()

    def stop(number, frame):
        stopping.set()
        # A second Ctrl-C ends the process at once. SIGTERM may come twice
        # from `timeout` and the like, and means no more than once.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        server.start()
    except (OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    served = ", ".join(
        f"{model.name} (version {model.version().number})"
        for model in server.models.values()
    )
    print(f"Serving {served} at {server.target}", flush=True)
    stopping.wait()
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
