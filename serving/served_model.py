"""SavedModel -> answers: a model of the embedded server and its versions."""

import gc
import logging
import pathlib
import weakref

import grpc
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
    prediction_log_pb2,
)

from serving import signature

logger = logging.getLogger(__name__)

MAX_ELEMENTS = 2**28  # of one input tensor

State = get_model_status_pb2.ModelVersionStatus  # LOADING, AVAILABLE, ...
# TensorFlow's error codes are gRPC's.
STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


class RequestError(Exception):
    """A request that cannot be answered, and whose fault that is.

    Args:
        message: str. Names the offender.
        code: `grpc.StatusCode`. The one TensorFlow Serving would give.
    """

    def __init__(
        self,
        message: str,
        code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT,
    ):
        super().__init__(message)
        self.code = code


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
        # Kept, because the signatures do not keep their variables.
        self._model = tf.saved_model.load(str(directory))
        saved_model = saved_model_pb2.SavedModel.FromString(
            (directory / "saved_model.pb").read_bytes()
        )
        # Copies, because a part of a message keeps the whole in memory.
        self.signatures = get_model_metadata_pb2.SignatureDefMap(
            signature_def=saved_model.meta_graphs[0].signature_def
        )
        self._warm_up(directory / signature.WARMUP_FILE)

    def _warm_up(self, path):
        """Replays requests, so that no user pays for the first ones."""
        if not path.exists():
            return
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record)
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
                f"Signature {name!r} does not exist. "
                f"Known: {sorted(self._model.signatures)}",
                grpc.StatusCode.FAILED_PRECONDITION,
            )
        declared = self.signatures.signature_def[name]
        inputs, outputs = declared.inputs, declared.outputs
        given, wanted = set(request.inputs), set(inputs)
        if given != wanted:
            raise RequestError(
                f"Signature {name!r} takes {sorted(wanted)}. "
                f"Missing: {sorted(wanted - given)}, "
                f"extra: {sorted(given - wanted)}"
            )
        unknown = set(request.output_filter) - set(outputs)
        if unknown:
            raise RequestError(
                f"Signature {name!r} gives {sorted(outputs)}. "
                f"Received: output_filter={sorted(unknown)}"
            )
        tensors = {
            key: _to_tensor(key, message, inputs[key])
            for key, message in request.inputs.items()
        }
        try:
            results = self._model.signatures[name](**tensors)
        except tf.errors.OpError as error:
            raise RequestError(
                f"Signature {name!r} failed: {_reason(error)}",
                STATUS_CODES[error.error_code],
            ) from error
        response = predict_pb2.PredictResponse()
        response.model_spec.version.value = self.number
        response.model_spec.signature_name = name
        for key in request.output_filter or outputs:
            response.outputs[key].CopyFrom(
                tf.make_tensor_proto(results[key].numpy())
            )
        return response


def _to_tensor(name, message, declared):
    """Makes a tensor of an input, if it is as the signature declares it.

    Everything is checked before the model runs: inside it, a wrong rank can
    abort the whole process.
    """
    if message.dtype != declared.dtype:
        raise RequestError(
            f"Input {name!r} must be {_dtype_name(declared.dtype)}. "
            f"Received: dtype={_dtype_name(message.dtype)}"
        )
    declared_shape = tf.TensorShape(declared.tensor_shape)
    shape = tuple(dim.size for dim in message.tensor_shape.dim)
    if min(shape, default=1) < 1 or not declared_shape.is_compatible_with(
        shape
    ):
        raise RequestError(
            f"Input {name!r} must have the shape {declared_shape} and not be "
            f"empty. Received: shape={shape}"
        )
    # A message may give its last value once for many elements, so that a few
    # bytes could ask for any amount of memory or, of images, of time.
    is_string = message.dtype == types_pb2.DT_STRING
    limit = len(message.string_val) if is_string else MAX_ELEMENTS
    if tf.TensorShape(shape).num_elements() > limit:
        raise RequestError(
            f"Input {name!r} must not have more than {limit} elements. "
            f"Received: shape={shape}"
        )
    try:
        return tf.constant(tf.make_ndarray(message))
    except (OverflowError, TypeError, ValueError) as error:
        raise RequestError(
            f"Input {name!r} cannot be parsed: {error}"
        ) from error


def _dtype_name(number):
    try:
        return types_pb2.DataType.Name(number)
    except ValueError:  # a number that no version of TensorFlow knows
        return str(number)


def _reason(error):
    """Cuts off where in the graph it happened, which no client knows."""
    message = error.message.rpartition("<stack traces unavailable>\n")[2]
    return message.partition("\n\t [[")[0]


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
        self._current = None
        self._states = {}  # version -> ModelVersionStatus
        self._unloading = {}  # version -> weak reference

    def load(self) -> None:
        """Loads the newest version for the first time.

        Raises:
            FileNotFoundError: If the base path holds no version.
            RuntimeError: If the newest version cannot be loaded.
        """
        self.refresh()
        if self._current:
            return
        for state in self.states():
            raise RuntimeError(
                f"Version {state.version} in {self.base_path} cannot be "
                f"loaded: {state.status.error_message}"
            )
        hint = ""
        if (self.base_path / "saved_model.pb").exists():
            hint = ". This is a version itself; give the folder above it"
        raise FileNotFoundError(
            "A base path must hold `<number>/saved_model.pb`. "
            f"Received: {self.name}={self.base_path}{hint}"
        )

    def refresh(self) -> None:
        """Serves the highest version on disk, if it can be loaded.

        Requests are answered by the old version until the new one is warm.
        A version that failed is not tried again before its folder is gone. A
        lower version is loaded if the folder of the current one is gone, so
        that removing a version rolls it back. One thread may call this.
        """
        self._end_unused_versions()
        versions = {
            int(path.parent.name): path.parent
            for path in self.base_path.glob("*/saved_model.pb")
            if path.parent.name.isascii() and path.parent.name.isdecimal()
        }
        failed = {s.version for s in self.states() if s.status.error_code}
        for number in failed - set(versions):
            del self._states[number]
        old, newest = self._current, max(versions, default=None)
        if newest is None or newest in failed or old and old.number == newest:
            return
        self._set_state(newest, State.LOADING)
        try:
            self._current = LoadedVersion(newest, versions[newest])
        except Exception as error:
            # Anything may be wrong with files on disk, and nothing of it may
            # hurt the version that answers.
            logger.exception("Cannot load %s", versions[newest])
            self._set_state(newest, State.END, str(error))
            return
        if old:
            self._set_state(old.number, State.UNLOADING)
            self._unloading[old.number] = weakref.ref(old)
        self._set_state(newest, State.AVAILABLE)
        logger.info("Serving %s version %d", self.name, newest)

    def _end_unused_versions(self):
        """Frees the old versions that no running request holds any more."""
        for number, version in list(self._unloading.items()):
            if version() is None:
                del self._unloading[number]
                # TensorFlow's objects refer to one another in circles, so
                # that the weights would stay for long.
                gc.collect()
                # After a roll-back the number may be in memory anew.
                if self._states[number].state == State.UNLOADING:
                    self._set_state(number, State.END)

    def version(self, number: int | None = None) -> LoadedVersion:
        """Gives the version that answers; it lasts as long as it is held.

        Args:
            number: int or `None` for the current version.

        Raises:
            RequestError: If this version is not served.
        """
        current = self._current
        if current is None or number not in (None, current.number):
            raise RequestError(
                f"Version {number} of model {self.name!r} is not served. "
                f"Served: {current and current.number}",
                grpc.StatusCode.NOT_FOUND,
            )
        return current

    def states(self) -> list[State]:
        """Gives the state of each version seen so far, newest first."""
        states = list(self._states.values())  # `refresh` may run meanwhile
        return sorted(states, key=lambda state: -state.version)

    def _set_state(self, number, state, error=""):
        status = State(version=number, state=state)
        if error:
            status.status.error_code = tf.errors.UNKNOWN
            status.status.error_message = error
        self._states[number] = status
