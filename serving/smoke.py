"""Asks a running server what the tests ask: `python -m serving.smoke`.

The tests know the embedded server only. This puts their main questions to
any server of a model that `export` wrote, such as the `tensorflow/serving` of
`serving/config/docker-compose.yml`:

    python -m serving.smoke --target localhost:8500 --model csra

It prints a line a check, and exits with 1 if one of them fails.
"""

import argparse
import io
import sys
from collections.abc import Callable, Sequence

import grpc
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving import signature
from serving.client import SEQUENCE, Client, ServingError

TIMEOUT_SECONDS = 30.0  # of each request
BATCH_SIZE = 16  # images
# Between an image alone and in a batch, where sums take another order.
TOLERANCE = 1e-4
UNKNOWN = "no_such_signature", 999_999_999  # and version
ORIENTATION, ON_ITS_SIDE = 0x112, 6  # an EXIF tag, and a value of it
# Where to look: at the whole image, a half and a quarter of it.
REGIONS = np.array([[0, 0, 1, 1], [0, 0, 1, 0.5], [0.5, 0.5, 1, 1]], "float32")
ANSWER = {
    signature.PROBABILITIES,
    signature.TOP_LABELS,
    signature.TOP_PROBABILITIES,
}
SIGNATURES = {  # name -> inputs, outputs; a method may have more outputs
    signature.SERVING_DEFAULT: ({signature.IMAGE_BYTES}, ANSWER),
    signature.IMAGE_SIGNATURE: ({signature.IMAGE}, {signature.PROBABILITIES}),
    signature.LABELS_SIGNATURE: (set(), {signature.LABELS}),
    signature.REGIONS_SIGNATURE: (  # only of a model that takes regions
        {signature.IMAGE_BYTES, signature.REGIONS},
        ANSWER,
    ),
}
NO_REGIONS = "the model takes none"


class CheckError(Exception):
    """An answer that is not as it should be."""


class Checks:
    """The questions to one model on one server.

    Each method asks one, and gives a line about the answer.

    Args:
        target: str. `host:port` of the server.
        model: str. Name of the model on the server.

    Raises:
        CheckError: By each method, if the answer is not as it should be.
        ServingError: By each method, if there is none.
        grpc.RpcError: In its place, where no `Client` has this question.
    """

    def __init__(self, target: str, model: str):
        self._model = model
        self._client = Client(target, TIMEOUT_SECONDS)
        self._channel = grpc.insecure_channel(target)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(
            self._channel
        )
        self._status = model_service_pb2_grpc.ModelServiceStub(self._channel)
        pixels = np.random.default_rng(0).integers(
            256, size=(BATCH_SIZE, 48, 64, 3), dtype=np.uint8
        )
        self._images = [tf.io.encode_jpeg(image).numpy() for image in pixels]

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()
        self._channel.close()

    def status(self) -> str:
        """A version of the model is loaded."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = self._model
        response = self._status.GetModelStatus(request, timeout=TIMEOUT_SECONDS)
        states = {
            status.version: status.State.Name(status.state)
            for status in response.model_version_status
        }
        _expect("AVAILABLE" in states.values(), f"the versions are {states}")
        return f"the versions are {states}"

    def metadata(self) -> str:
        """The model has the signatures that `serving.signature` names."""
        declared = self._signatures()
        names = [*SIGNATURES]
        if not self._takes_regions():
            names.remove(signature.REGIONS_SIGNATURE)
        for name in names:
            inputs, outputs = SIGNATURES[name]
            found = declared.get(name)
            _expect(found is not None, f"there is no signature {name!r}")
            _expect(
                inputs == set(found.inputs) and outputs <= set(found.outputs),
                f"{name!r} takes {sorted(found.inputs)} and gives "
                f"{sorted(found.outputs)}",
            )
        return f"the signatures are {', '.join(names)}"

    def _takes_regions(self):
        return signature.REGIONS_SIGNATURE in self._signatures()

    def _num_regions(self):
        """Gives the number of them that the model takes, or `None` for any."""
        declared = self._signatures()[signature.REGIONS_SIGNATURE]
        dimensions = declared.inputs[signature.REGIONS].tensor_shape.dim
        # None at all where the input is missing, which `metadata` tells.
        size = dimensions[1].size if len(dimensions) == 3 else -1
        return size if size > 0 else None

    def _signatures(self):
        """Gives what the model declares of each of its signatures, by name."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            metadata_field=["signature_def"]
        )
        request.model_spec.name = self._model
        response = self._prediction.GetModelMetadata(
            request, timeout=TIMEOUT_SECONDS
        )
        declared = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(declared)
        return declared.signature_def

    def jpeg(self) -> str:
        """An image gets probabilities, and the highest of them in order."""
        [answer] = self._predict(self._images[:1])
        probabilities, top = answer.probabilities, answer.top_probabilities
        _expect(
            probabilities.ndim == 1
            and (0 <= probabilities).all()
            and (probabilities <= 1).all(),
            f"the probabilities are {probabilities}",
        )
        best = np.sort(probabilities)[::-1][: len(top)]
        _expect(
            0 < len(top) == len(answer.top_labels)
            and np.array_equal(top, best),
            f"the best of {probabilities} are {answer.top_labels}, {top}",
        )
        return f"{answer.top_labels[0]} has {top[0]:.3f}"

    def labels(self) -> str:
        """Each class has a name, and an image's best ones bear theirs."""
        labels = self._client.labels(self._model)
        [answer] = self._predict(self._images[:1])
        _expect(
            len(set(labels)) == len(labels) == len(answer.probabilities),
            f"{len(answer.probabilities)} classes are called {labels}",
        )
        by_name = dict(zip(labels, answer.probabilities, strict=True))
        named = [by_name.get(label) for label in answer.top_labels]
        _expect(
            named == list(answer.top_probabilities),
            f"{answer.top_labels} have {answer.top_probabilities}, but by "
            f"their names {named}",
        )
        return f"{len(labels)} classes"

    def sequences(self) -> str:
        """The model's own decision is known labels, each once, and padding."""
        images = np.array(self._images, object)
        outputs = self._outputs(
            signature.SERVING_DEFAULT, {signature.IMAGE_BYTES: images}
        )
        sequences = [outputs[name] for name in SEQUENCE if name in outputs]
        if not sequences:
            return "the model gives none"
        shapes = [array.shape for array in sequences]
        _expect(
            len(shapes) == 2 and shapes[0] == shapes[1],
            f"{' and '.join(SEQUENCE)} have the shapes {shapes}",
        )
        known = set(self._client.labels(self._model))
        num_labels = 0
        for row, probabilities in zip(*sequences, strict=True):
            labels = [label.decode() for label in row]
            found = [label for label in labels if label]
            num_labels += len(found)
            padding = len(labels) - len(found)
            _expect(
                labels == found + [""] * padding
                and len(set(found)) == len(found)
                and known.issuperset(found),
                f"a sequence is {labels}",
            )
            _expect(
                (0 <= probabilities).all()
                and (probabilities <= 1).all()
                and not probabilities[len(found) :].any(),
                f"{labels} have the probabilities {probabilities}",
            )
        return f"{num_labels} known labels for {BATCH_SIZE} images, none twice"

    def batch(self) -> str:
        """Images in a batch get the answers that each gets alone, in order."""
        self._same_alone()
        return f"{BATCH_SIZE} images get the answers that each gets alone"

    def regions(self) -> str:
        """The given regions matter, those of other images and padding not."""
        if not self._takes_regions():
            return NO_REGIONS
        number = self._num_regions()
        if number is None:
            # Fewer than those of others are padded, here one and none.
            others = [REGIONS[: (1 + i) % 4] for i in range(BATCH_SIZE)]
        else:
            rolled = [np.roll(REGIONS, i, axis=0) for i in range(BATCH_SIZE)]
            others = [np.resize(rows, (number, 4)) for rows in rolled]
        self._same_alone(others)
        shape = (number or len(REGIONS), 4)
        [whole], [part] = (
            self._predict(self._images[:1], [np.resize(regions, shape)])
            for regions in (REGIONS, REGIONS[-1:])
        )
        _expect(
            (whole.probabilities != part.probabilities).any(),
            f"a quarter gets the answer of the image, {part.probabilities}",
        )
        return f"{BATCH_SIZE} images with regions get what each gets alone"

    def _same_alone(self, regions=None):
        answers = self._predict(self._images, regions)
        for i in (0, BATCH_SIZE - 1):
            [alone] = self._predict([self._images[i]], regions and [regions[i]])
            difference = np.abs(alone.probabilities - answers[i].probabilities)
            _expect(
                difference.max() <= TOLERANCE,
                f"image {i} of {BATCH_SIZE} differs by {difference.max()}",
            )
            _expect(
                alone.sequence_labels == answers[i].sequence_labels,
                f"image {i} of {BATCH_SIZE} has the labels "
                f"{answers[i].sequence_labels}, and {alone.sequence_labels} "
                "alone",
            )

    def formats(self) -> str:
        """An image gets the same answers whichever way it is stored."""
        pixels = _ramp()
        self._same(
            PNG=_encoded(pixels, "PNG"),
            WebP=_encoded(pixels, "WEBP", lossless=True),
        )
        exif = Image.Exif()
        exif[ORIENTATION] = ON_ITS_SIDE
        turned = _encoded(pixels, "JPEG", exif=exif)
        # Of what was decoded: to encode twice would lose twice.
        decoded = tf.io.decode_jpeg(turned, dct_method="INTEGER_ACCURATE")
        upright = np.rot90(decoded.numpy(), -1)
        self._same(
            **{
                "upright PNG": _encoded(upright, "PNG"),
                "JPEG with an EXIF orientation": turned,
            }
        )
        return "PNG, WebP and a JPEG on its side get the same answers"

    def _same(self, **images):
        expected = None
        for name, image in images.items():
            try:
                [answer] = self._predict([image])
            except ServingError as error:
                raise CheckError(f"{name}: {error}") from error
            if expected is None:
                expected = answer.probabilities
            difference = np.abs(answer.probabilities - expected).max()
            _expect(
                difference <= TOLERANCE,
                f"{name} differs from {next(iter(images))} by {difference}",
            )

    def corrupt_jpeg(self) -> str:
        """Half a file is refused, and the server lives on."""
        half = self._images[0][: len(self._images[0]) // 2]
        try:
            self._predict([half])
        except ServingError as error:
            return self._refused(error.code)
        raise CheckError("it got an answer")

    def wrong_rank(self) -> str:
        """Pixels without a batch are refused, and the server lives on."""
        pixels = np.zeros((8, 8, 3), "float32")
        return self._refused(
            self._code(signature.IMAGE_SIGNATURE, {signature.IMAGE: pixels})
        )

    def wrong_regions(self) -> str:
        """Those of a wrong shape, or that lie nowhere, are refused."""
        if not self._takes_regions():
            return NO_REGIONS
        images = np.array(self._images[:1], object)
        good = np.resize(REGIONS, (self._num_regions() or len(REGIONS), 4))
        for regions in (
            good,  # without a batch
            np.stack([good] * 2),  # of more images
            good[None] * np.nan,
            good[None] * 48,  # in pixels
            good[None, :, ::-1],  # the end first
        ):
            inputs = {signature.IMAGE_BYTES: images, signature.REGIONS: regions}
            code = self._code(signature.REGIONS_SIGNATURE, inputs)
            line = self._refused(code)
        return line

    def unknown_signature(self) -> str:
        """A signature that is not there is refused."""
        images = np.array(self._images[:1], object)
        return self._refused(
            self._code(UNKNOWN[0], {signature.IMAGE_BYTES: images}),
            grpc.StatusCode.FAILED_PRECONDITION,
        )

    def unknown_version(self) -> str:
        """A version that is not there is refused."""
        try:
            self._client.predict(self._images[:1], self._model, UNKNOWN[1])
        except ServingError as error:
            return self._refused(error.code, grpc.StatusCode.NOT_FOUND)
        raise CheckError("it got an answer")

    def _outputs(self, signature_name, inputs):
        """Sends what no `Client` would; gives what it would change."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._model
        request.model_spec.signature_name = signature_name
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        response = self._prediction.Predict(request, timeout=TIMEOUT_SECONDS)
        return {
            name: tf.make_ndarray(tensor)
            for name, tensor in response.outputs.items()
        }

    def _code(self, *request):
        """Gives the code of the error that a request gets."""
        try:
            self._outputs(*request)
        except grpc.RpcError as error:
            return error.code()
        raise CheckError("it got an answer")

    def _refused(self, code, expected=grpc.StatusCode.INVALID_ARGUMENT):
        _expect(code is expected, f"it got {code.name} and not {expected.name}")
        self._predict(self._images[:1])
        return "refused, and the next image is answered"

    def _predict(self, images, regions=None):
        return self._client.predict(images, self._model, regions=regions)


def _ramp():
    """Draws pixels that have other answers when they lie on their side."""
    y, x = np.mgrid[:48, :64]
    return np.uint8(np.stack([5 * y, 3 * x, 0 * x], axis=-1))


def _encoded(pixels, format, **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


def _expect(condition, message):
    if not condition:
        raise CheckError(message)


def _passes(check: Callable[[], str]) -> bool:
    """Runs a check, prints its line, and says whether all was well."""
    name = check.__name__.replace("_", " ")
    try:
        print(f"ok    {name}: {check()}", flush=True)
        return True
    except grpc.RpcError as error:
        problem = f"{error.code().name}: {error.details()}"
    except (CheckError, ServingError) as error:
        problem = error
    print(f"FAIL  {name}: {' '.join(str(problem).split())}", flush=True)
    return False


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the checks.

    Args:
        argv: list of str, or `None` for the command line's.

    Returns:
        The exit code: 0, or 1 if a check fails.
    """
    parser = argparse.ArgumentParser(
        prog="python -m serving.smoke",
        description="Checks that a running server answers as it should.",
        allow_abbrev=False,
    )
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
    args = parser.parse_args(argv)
    checks = Checks(args.target, args.model)
    try:
        if not _passes(checks.status):
            return 1  # and nothing else can be asked
        others = (
            checks.metadata,
            checks.jpeg,
            checks.labels,
            checks.sequences,
            checks.batch,
            checks.regions,
            checks.formats,
            checks.corrupt_jpeg,
            checks.wrong_rank,
            checks.wrong_regions,
            checks.unknown_signature,
            checks.unknown_version,
        )
        return int(not all([_passes(check) for check in others]))
    finally:
        checks.close()


if __name__ == "__main__":
    sys.exit(main())
