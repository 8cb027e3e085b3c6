"""Embedded server for development and tests: SavedModel -> gRPC answers.

Speaks the gRPC API of TensorFlow Serving on its own stubs and answers errors
with its status codes, so that a client cannot tell the two apart. **It is no
replacement for it**: production runs the real `tensorflow/serving`, which
batches requests, serves REST, TLS and metrics, and is not written in Python.

    python -m serving.server --model csra=runs/x/export/csra --port 8500
"""

import argparse
import contextlib
import functools
import gc
import logging
import pathlib
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent import futures

import grpc
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from serving import signature

logger = logging.getLogger(__name__)

NUM_THREADS = 8  # requests that run at the same time
# A tensor's message may give its last value once for many elements, so that
# a few bytes ask for any amount of memory.
MAX_TENSOR_BYTES = 2**30
MAX_ERROR_LENGTH = 2000  # characters; gRPC drops an answer with over 8 KiB

State = get_model_status_pb2.ModelVersionStatus
# TensorFlow's error codes are gRPC's.
STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


class RequestError(Exception):
    """A request that cannot be answered, and whose fault that is.

    Args:
        code: `grpc.StatusCode`. The one TensorFlow Serving would give.
        message: str. Names the offender.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code


def _invalid(message):
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)


def _dtype_name(number):
    try:
        return types_pb2.DataType.Name(number)
    except ValueError:  # a number that no version of TensorFlow knows
        return str(number)


def _to_tensor(name, message, declared):
    """Makes a tensor of an input, if it is as the signature declares it.

    Everything is checked before the model runs: inside it, a wrong rank can
    abort the whole process.
    """
    if message.dtype != declared.dtype:
        raise _invalid(
            f"Input {name!r} must be {_dtype_name(declared.dtype)}. "
            f"Received: dtype={_dtype_name(message.dtype)}"
        )
    shape = tf.TensorShape(message.tensor_shape)
    declared_shape = tf.TensorShape(declared.tensor_shape)
    if not shape.is_fully_defined() or not declared_shape.is_compatible_with(
        shape
    ):
        raise _invalid(
            f"Input {name!r} must have the shape {declared_shape}. "
            f"Received: shape={shape}"
        )
    if any(size < 1 for size in shape):
        raise _invalid(
            f"Input {name!r} must not be empty. Received: shape={shape}"
        )
    dtype = tf.dtypes.as_dtype(message.dtype)
    if shape.num_elements() * max(dtype.size, 1) > MAX_TENSOR_BYTES:
        raise _invalid(
            f"Input {name!r} must not take more than {MAX_TENSOR_BYTES} bytes. "
            f"Received: shape={shape}"
        )
    if dtype == tf.string and len(message.string_val) != shape.num_elements():
        raise _invalid(
            f"Input {name!r} cannot be parsed: {len(message.string_val)} "
            f"strings for {shape.num_elements()} elements."
        )
    try:
        return tf.constant(tf.make_ndarray(message), dtype)
    except (OverflowError, TypeError, ValueError) as error:
        raise _invalid(f"Input {name!r} cannot be parsed: {error}") from error


class LoadedVersion:
    """One version of a model in memory.

    Args:
        number: int. The version.
        directory: `pathlib.Path` of the SavedModel.

    Raises:
        Exception: Whatever TensorFlow finds wrong with the files, and
            `RequestError` if a warm-up request fails.
    """

    def __init__(self, number: int, directory: pathlib.Path):
        self.number = number
        self.num_running = 0  # requests; guarded by the model's lock
        # Kept, because the signatures do not keep their variables.
        self._model = tf.saved_model.load(str(directory))
        saved_model = saved_model_pb2.SavedModel.FromString(
            (directory / "saved_model.pb").read_bytes()
        )
        # A copy, because a part of a message keeps the whole in memory.
        self.signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, declared in saved_model.meta_graphs[0].signature_def.items():
            self.signatures.signature_def[name].CopyFrom(declared)
        self._warm_up(directory / signature.WARMUP_FILE)

    def _warm_up(self, path):
        """Replays requests, so that no user pays for the first ones."""
        if not path.exists():
            return
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if not log.HasField("predict_log"):
                raise ValueError(
                    f"{path} must hold Predict requests only. Received: "
                    f"log_type={log.WhichOneof('log_type')}"
                )
            self.predict(log.predict_log.request)

    def predict(
        self, request: predict_pb2.PredictRequest
    ) -> predict_pb2.PredictResponse:
        """Runs a signature.

        Args:
            request: `PredictRequest`. Its model and version are not looked at.

        Returns:
            A `PredictResponse` without the model's name.

        Raises:
            RequestError: If the request does not fit the signature, or the
                model finds fault with its content.
        """
        name = request.model_spec.signature_name or signature.SERVING_DEFAULT
        if name not in self._model.signatures:
            raise RequestError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"Signature {name!r} does not exist. "
                f"Known: {sorted(self._model.signatures)}",
            )
        declared = self.signatures.signature_def[name]
        if set(request.inputs) != set(declared.inputs):
            raise _invalid(
                f"Signature {name!r} takes {sorted(declared.inputs)}. "
                f"Missing: {sorted(set(declared.inputs) - set(request.inputs))}"
                f", extra: {sorted(set(request.inputs) - set(declared.inputs))}"
            )
        for output in request.output_filter:
            if output not in declared.outputs:
                raise _invalid(
                    f"Signature {name!r} gives {sorted(declared.outputs)}. "
                    f"Received: output_filter={output!r}"
                )
        tensors = {
            key: _to_tensor(key, message, declared.inputs[key])
            for key, message in request.inputs.items()
        }
        try:
            outputs = self._model.signatures[name](**tensors)
        except tf.errors.OpError as error:
            raise RequestError(
                STATUS_CODES[error.error_code],
                f"Signature {name!r} failed: {error.message}",
            ) from error
        response = predict_pb2.PredictResponse()
        response.model_spec.version.value = self.number
        response.model_spec.signature_name = name
        for output in request.output_filter or declared.outputs:
            response.outputs[output].CopyFrom(
                tf.make_tensor_proto(outputs[output].numpy())
            )
        return response


class ServedModel:
    """A model by name: the version that answers, and those before it.

    Args:
        name: str. What clients call it.
        base_path: str or `pathlib.Path` of a folder with one SavedModel a
            version, each named by its number. Other names are ignored.
    """

    def __init__(self, name: str, base_path: str | pathlib.Path):
        self.name = name
        self.base_path = pathlib.Path(base_path)
        self._lock = threading.Lock()
        self._current = None
        self._states = {}  # version -> ModelVersionStatus
        self._has_garbage = False

    def refresh(self) -> None:
        """Serves the highest version on disk, if it can be loaded.

        Requests are answered by the old version until the new one is warm.
        A version that failed is not tried again before its folder is gone. A
        lower version is loaded if the folder of the current one is gone, so
        that removing a version rolls it back.
        """
        if self._has_garbage:
            # TensorFlow's objects refer to one another in circles, so that
            # the weights of an unloaded version would stay for long.
            self._has_garbage = False
            gc.collect()
        versions = self._versions_on_disk()
        with self._lock:
            for number in set(self._states) - set(versions):
                if self._states[number].status.error_code:
                    del self._states[number]
            newest = max(versions, default=None)
            if newest is None or (
                self._current and self._current.number == newest
            ):
                return
            if newest in self._states and (
                self._states[newest].status.error_code
            ):
                return
            self._set_state(newest, State.LOADING)
        try:
            loaded = LoadedVersion(newest, versions[newest])
        except Exception as error:
            # Anything may be wrong with files on disk, and nothing of it may
            # hurt the version that answers.
            logger.exception("Cannot load %s", versions[newest])
            with self._lock:
                self._set_state(newest, State.END, error)
            return
        with self._lock:
            old, self._current = self._current, loaded
            self._set_state(newest, State.AVAILABLE)
            if old:
                self._set_state(old.number, State.UNLOADING)
                self._unload_if_idle(old)
        logger.info("Serving %s version %d", self.name, newest)

    def _versions_on_disk(self):
        return {
            int(path.name): path
            for path in self.base_path.glob("*")
            if path.name.isascii()
            and path.name.isdecimal()
            and (path / "saved_model.pb").is_file()
        }

    def _set_state(self, number, state, error=None):
        status = get_model_status_pb2.ModelVersionStatus(
            version=number, state=state
        )
        if error is not None:
            status.status.error_code = getattr(
                error, "error_code", tf.errors.UNKNOWN
            )
            status.status.error_message = str(error)[:MAX_ERROR_LENGTH]
        self._states[number] = status

    def _unload_if_idle(self, version):
        if version is not self._current and not version.num_running:
            self._has_garbage = True
            # After a roll-back the same number may be in memory anew.
            if version.number != self._current.number:
                self._set_state(version.number, State.END)

    @contextlib.contextmanager
    def version(self, number: int | None = None):
        """Lends the version that answers, and keeps it until it is returned.

        Args:
            number: int or `None` for the current version.

        Raises:
            RequestError: If this version is not served.
        """
        with self._lock:
            current = self._current
            if current is None or number not in (None, current.number):
                raise RequestError(
                    grpc.StatusCode.NOT_FOUND,
                    f"Version {number} of model {self.name!r} is not served. "
                    f"Served: {current and current.number}",
                )
            current.num_running += 1
        try:
            yield current
        finally:
            with self._lock:
                current.num_running -= 1
                self._unload_if_idle(current)

    def states(self) -> list[get_model_status_pb2.ModelVersionStatus]:
        """Gives the state of each version seen so far, newest first."""
        with self._lock:
            return [self._states[n] for n in sorted(self._states, reverse=True)]


def _answers_errors(method):
    """Turns what a method raises into a status; the server lives on."""

    @functools.wraps(method)
    def answer(self, request, context):
        try:
            return method(self, request)
        except RequestError as error:
            code, message = error.code, str(error)
        except Exception as error:
            logger.exception("Unexpected error in %s", method.__name__)
            code = grpc.StatusCode.INTERNAL
            message = f"{type(error).__name__}: {error}"
        context.abort(code, message[:MAX_ERROR_LENGTH])

    return answer


def _find(models, model_spec):
    """Gives the model and the version number, or `None`, of a request."""
    if not model_spec.name:
        raise _invalid(f"A request must name a model. Known: {sorted(models)}")
    if model_spec.name not in models:
        raise RequestError(
            grpc.StatusCode.NOT_FOUND,
            f"Model {model_spec.name!r} is not served. "
            f"Served: {sorted(models)}",
        )
    if model_spec.version_label:
        raise _invalid(
            "This server knows versions by number only. "
            f"Received: version_label={model_spec.version_label!r}"
        )
    number = None
    if model_spec.HasField("version"):
        number = model_spec.version.value
    return models[model_spec.name], number


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers Predict and GetModelMetadata; the rest is UNIMPLEMENTED.

    Args:
        models: dict of name to `ServedModel`.
    """

    def __init__(self, models):
        self._models = models

    @_answers_errors
    def Predict(self, request):
        """Runs one signature of one model."""
        model, number = _find(self._models, request.model_spec)
        with model.version(number) as version:
            response = version.predict(request)
        response.model_spec.name = model.name
        return response

    @_answers_errors
    def GetModelMetadata(self, request):
        """Gives the signatures of one model."""
        if list(request.metadata_field) != ["signature_def"]:
            raise _invalid(
                "`metadata_field` must be 'signature_def'. "
                f"Received: metadata_field={list(request.metadata_field)}"
            )
        model, number = _find(self._models, request.model_spec)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = model.name
        with model.version(number) as version:
            response.model_spec.version.value = version.number
            response.metadata["signature_def"].Pack(version.signatures)
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Answers GetModelStatus; the rest is UNIMPLEMENTED.

    Args:
        models: dict of name to `ServedModel`.
    """

    def __init__(self, models):
        self._models = models

    @_answers_errors
    def GetModelStatus(self, request):
        """Gives the state of the versions of one model."""
        model, number = _find(self._models, request.model_spec)
        states = [
            state
            for state in model.states()
            if number is None or state.version == number
        ]
        if not states:
            raise RequestError(
                grpc.StatusCode.NOT_FOUND,
                f"Version {number} of model {model.name!r} does not exist.",
            )
        return get_model_status_pb2.GetModelStatusResponse(
            model_version_status=states
        )


class Server:
    """Serves models from disk until it is stopped.

    Args:
        models: dict of model name to base path, see `ServedModel`.
        port: int. 0 takes any free one, see `target`.
        host: str. The default can be reached from this machine only;
            "0.0.0.0" from everywhere, without encryption or passwords.
        poll_seconds: float, above 0. Time between looks for new versions.
        max_message_bytes: int. Limit of one message, received or sent.

    Raises:
        ValueError: If `models` is empty or `poll_seconds` out of range.

    Example:

    >>> Server({})
    Traceback (most recent call last):
    ValueError: A server needs at least one model. Received: models={}
    """

    def __init__(
        self,
        models: Mapping[str, str | pathlib.Path],
        port: int = 8500,
        host: str = "localhost",
        poll_seconds: float = 1.0,
        max_message_bytes: int = signature.MAX_MESSAGE_BYTES,
    ):
        if not models:
            raise ValueError(
                f"A server needs at least one model. Received: models={models}"
            )
        if poll_seconds <= 0:
            raise ValueError(
                "`poll_seconds` must be above 0. "
                f"Received: poll_seconds={poll_seconds}"
            )
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
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionService(self.models), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelService(self.models), self._server
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
                model.refresh()
                _check_is_served(model)
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


def _check_is_served(model):
    states = model.states()
    if not states:
        hint = ""
        if (model.base_path / "saved_model.pb").exists():
            hint = " This is a version itself; give the folder above it."
        raise FileNotFoundError(
            "A base path must hold `<number>/saved_model.pb`. "
            f"Received: {model.name}={model.base_path}{hint}"
        )
    if states[0].state != State.AVAILABLE:
        raise RuntimeError(
            f"Version {states[0].version} in {model.base_path} cannot be "
            f"loaded: {states[0].status.error_message}"
        )


def _parse_models(parser, texts):
    models = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not name or not path:
            parser.error(f"--model must be NAME=BASE_PATH, not {text!r}")
        if name in models:
            parser.error(f"--model {name} is given twice")
        models[name] = path
    return models


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line until SIGTERM or SIGINT.

    Args:
        argv: list of str, or `None` for the command line's.

    Returns:
        The exit code: 0, or 1 if the server could not start.
    """
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
    parser.add_argument(
        "--poll_seconds",
        type=float,
        default=1.0,
        help="time between looks for new versions (default: 1)",
    )
    parser.add_argument(
        "--max_message_bytes",
        type=int,
        default=signature.MAX_MESSAGE_BYTES,
        help="limit of one message (default: %(default)s)",
    )
    parser.add_argument(
        "--grace_seconds",
        type=float,
        default=10.0,
        help="time that requests have to finish at the end (default: 10)",
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")

    stopping = threading.Event()

    def stop(number, frame):
        # A second signal ends the process at once.
        signal.signal(number, signal.SIG_DFL)
        stopping.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    models = _parse_models(parser, args.model)
    try:
        server = Server(
            models,
            args.port,
            args.host,
            args.poll_seconds,
            args.max_message_bytes,
        )
        server.start()
    except (OSError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    served = ", ".join(
        f"{model.name} (version {model.states()[0].version})"
        for model in server.models.values()
    )
    print(f"Serving {served} at {server.target}", flush=True)
    stopping.wait()
    server.stop(args.grace_seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
