"""What `fit` needs: devices, optimizer groups, schedules, callbacks."""

import contextlib
import math
import pathlib
import re
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from zoo import checkpoints, metrics, tensorboard, workers

# In errors of Python and of TensorFlow.
NO_ROOM = re.compile(".*(No space left on device|Disk quota exceeded).*")
LEAST_GAIN = 1e-3  # of mAP, that is worth an epoch
PROGRESS_SECONDS = 30  # between two lines


def strategy(devices="all"):
    """Makes the strategy to build and train a model in.

    Where `TF_CONFIG` names several workers (see `zoo.workers`), this waits
    until all of them are there.

    Args:
        devices: str. `"all"`: every GPU, or the CPU where there is none;
            `"one"`: the first GPU, or the CPU; `"cpu:2"`, `"cpu:3"`, ...: the
            CPU as that many virtual devices, to try out replicas without GPUs.
            Of several workers each has all of its own.

    Returns:
        `tf.distribute.MirroredStrategy`; with several workers
        `tf.distribute.MultiWorkerMirroredStrategy`.

    Raises:
        ValueError: If `devices` is none of these, or not `"all"` with several
            workers; if `TF_CONFIG` cannot be read.
        RuntimeError: If virtual devices are asked for too late: TensorFlow
            fixes its devices when it runs its first operation.

    Example:

    >>> strategy("one").num_replicas_in_sync
    1
    """
    _, num_workers = workers.cluster()
    if num_workers > 1:
        if devices != "all":
            raise ValueError(
                '`devices` must be "all" where `TF_CONFIG` names several '
                f"workers. Received: devices={devices!r}"
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    if match := re.fullmatch(r"cpu:([1-9]\d*)", devices):
        count = int(match[1])
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
        names = [f"CPU:{i}" for i in range(count)]
    elif devices in ("all", "one"):
        gpus = [
            f"GPU:{i}"
            for i in range(len(tf.config.list_physical_devices("GPU")))
        ]
        names = gpus or ["CPU:0"]
        if devices == "one":
            names = names[:1]
    else:
        raise ValueError(
            '`devices` must be "all", "one" or "cpu:N" with N at least 1. '
            f"Received: devices={devices!r}"
        )
    return tf.distribute.MirroredStrategy(names)


@contextlib.contextmanager
def precision(policy):
    """Lets the layers that are made meanwhile compute in a precision.

    Weights, logits and the loss stay in float32 in any case.

    Args:
        policy: str. `"float32"`; `"mixed_bfloat16"`; or `"mixed_float16"`,
            under which `compile` scales the loss, so that small gradients do
            not vanish.

    Example:

    >>> with precision("mixed_bfloat16"):
    ...     layer = keras.layers.Dense(1)
    >>> layer.compute_dtype, keras.layers.Dense(1).compute_dtype
    ('bfloat16', 'float32')
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def check_distributable(model):
    """Refuses what Keras 3.15 breaks or ignores under `MirroredStrategy`.

    Args:
        model: compiled `keras.Model`.

    Raises:
        ValueError: If it was built under a `MirroredStrategy` and compiled
            with gradient accumulation, several steps in one execution, XLA, or
            a loss that is scaled over several replicas; names the option.
    """
    mirrored = (
        tf.distribute.MirroredStrategy,
        tf.distribute.MultiWorkerMirroredStrategy,
    )
    if not isinstance(model.distribute_strategy, mirrored):
        return
    for optimizer in (model.optimizer, *checkpoints.groups(model)):
        steps = optimizer.gradient_accumulation_steps
        if steps and steps > 1:
            raise ValueError(
                "`gradient_accumulation_steps` does not work under "
                "`MirroredStrategy`; raise `batch_size` or the number of "
                f"devices. Received: gradient_accumulation_steps={steps}"
            )
    if model.steps_per_execution > 1:
        raise ValueError(
            "`steps_per_execution` must be 1 under `MirroredStrategy`. "
            f"Received: steps_per_execution={model.steps_per_execution}"
        )
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    replicas = model.distribute_strategy.num_replicas_in_sync
    if scaled and replicas > 1:
        # Keras asks one replica whether the gradients of all are finite.
        raise ValueError(
            "A loss is scaled on one replica only; take mixed_bfloat16. "
            f"Received: mixed_float16 with {replicas} replicas"
        )
    if model.jit_compile:
        raise ValueError(
            "`jit_compile` must be False under `MirroredStrategy`. "
            f"Received: jit_compile={model.jit_compile}"
        )


@contextlib.contextmanager
def named_if_full(directory):
    """Says what to do where the disk of a run is full.

    Args:
        directory: `pathlib.Path` of the run.

    Raises:
        OSError: In place of TensorFlow's error, of its event files, or of one
            that does not say so.
    """
    try:
        yield
    except (OSError, tf.errors.ResourceExhaustedError) as error:
        found = NO_ROOM.search(str(error))
        if not found or "--resume" in str(error):
            raise
        raise OSError(
            f"The disk of {directory} is full. With some room the same command "
            f"with --resume goes on. Received: {found[0].strip()}"
        ) from error


@keras.saving.register_keras_serializable(package="zoo")
class WarmupStepDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly, then falls by a factor at equal distances.

    Formula, with `n` the steps since the end of the warm-up:

        step <  warmup_steps: learning_rate * (step + 1) / warmup_steps
        step >= warmup_steps: learning_rate * decay_rate ** (n // decay_steps)

    Args:
        learning_rate: float. The highest value.
        warmup_steps: int, at least 0. Steps of the rise.
        decay_steps: int, at least 1. Steps from one fall to the next.
        decay_rate: float. Factor of each fall.

    Raises:
        ValueError: If a number of steps is out of range.

    Example:

    >>> schedule = WarmupStepDecay(1.0, warmup_steps=2, decay_steps=3)
    >>> [round(float(schedule(step)), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.1]
    """

    def __init__(
        self, learning_rate, warmup_steps, decay_steps, decay_rate=0.1
    ):
        if decay_steps < 1 or warmup_steps < 0:
            raise ValueError(
                "`decay_steps` must be at least 1 and `warmup_steps` at least "
                f"0. Received: decay_steps={decay_steps}, "
                f"warmup_steps={warmup_steps}"
            )
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.decay_steps = decay_steps
        self.decay_rate = decay_rate

    def __call__(self, step):
        """Gives the learning rate of a step, counted from 0."""
        step = tf.cast(step, "float32")
        rise = tf.minimum((step + 1) / max(self.warmup_steps, 1), 1.0)
        falls = tf.maximum(step - self.warmup_steps, 0) // self.decay_steps
        return self.learning_rate * rise * self.decay_rate**falls

    def get_config(self):
        """Gives the arguments of the constructor."""
        return {
            "learning_rate": self.learning_rate,
            "warmup_steps": self.warmup_steps,
            "decay_steps": self.decay_steps,
            "decay_rate": self.decay_rate,
        }


@keras.saving.register_keras_serializable(package="zoo")
class WarmupCosineDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly from 0, then falls to 0 along half a cosine.

    Gives what Keras' `CosineDecay` gives, to the bit, which makes a branch of
    the graph for each of its two parts. An optimizer with weight decay asks
    for the rate once for each weight: for a ResNet-101 that is 300 branches.

    Formula, with `n` the steps since the end of the warm-up, at most
    `decay_steps`:

        step <  warmup_steps: learning_rate * step / warmup_steps
        step >= warmup_steps: learning_rate * (1 + cos(pi n / decay_steps)) / 2

    Args:
        learning_rate: float. The highest value.
        warmup_steps: int, at least 0. Steps of the rise.
        decay_steps: int, at least 1. Steps of the fall; 0 from then on.

    Raises:
        ValueError: If a number of steps is out of range.

    Example:

    >>> schedule = WarmupCosineDecay(1.0, warmup_steps=2, decay_steps=4)
    >>> [round(float(schedule(step)), 3) for step in range(7)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """

    def __init__(self, learning_rate, warmup_steps, decay_steps):
        if warmup_steps < 0:
            raise ValueError(
                "`warmup_steps` must be at least 0. "
                f"Received: warmup_steps={warmup_steps}"
            )
        self.learning_rate = float(learning_rate)  # Keras takes its type
        self.warmup_steps = warmup_steps
        self.decay_steps = decay_steps
        self.cosine = keras.optimizers.schedules.CosineDecay(
            self.learning_rate, decay_steps
        )

    def __call__(self, step):
        """Gives the learning rate of a step, counted from 0."""
        step = tf.cast(step, "float32")
        rate = self.cosine(tf.maximum(step - self.warmup_steps, 0))
        if self.warmup_steps:
            rate *= tf.minimum(step / self.warmup_steps, 1.0)
        return rate

    def get_config(self):
        """Gives the arguments of the constructor."""
        return {
            "learning_rate": self.learning_rate,
            "warmup_steps": self.warmup_steps,
            "decay_steps": self.decay_steps,
        }


def two_groups(model, backbone, backbone_optimizer, head_optimizer):
    """Trains the backbone with one optimizer and all the rest with another.

    Args:
        model: `keras.Model` that holds the backbone.
        backbone: `keras.Model`, a layer of `model`.
        backbone_optimizer: `keras.optimizers.Optimizer`.
        head_optimizer: `keras.optimizers.Optimizer`.

    Returns:
        `keras.optimizers.MultiOptimizer`; of a frozen backbone, the head's
        optimizer.

    Raises:
        ValueError: If a weight of the head shares its path with one of the
            backbone, so that the two cannot be told apart.
    """
    in_model = {id(variable) for variable in model.trainable_variables}
    backbone_variables = [
        variable
        for variable in backbone.trainable_variables
        if id(variable) in in_model  # a model may take a part of the levels
    ]
    if not backbone_variables:
        return head_optimizer
    paths = {variable.path for variable in backbone_variables}
    in_backbone = {id(variable) for variable in backbone_variables}
    head_paths = [
        variable.path
        for variable in model.trainable_variables
        if id(variable) not in in_backbone
    ]
    if shared := paths & set(head_paths):
        raise ValueError(
            "Layers of the head must not be named as layers of the backbone. "
            f"Received: {sorted(shared)} in both"
        )
    # The few weights of the head go by name, the rest is the backbone.
    pattern = "|".join(re.escape(path) for path in head_paths)
    optimizers = keras.optimizers.OptimizerMap(backbone_optimizer)
    optimizers[f"^({pattern})$"] = head_optimizer
    return keras.optimizers.MultiOptimizer(optimizers)


def in_float32(model):
    """Gives a model of mixed precision as one that computes in float32.

    What is measured, saved and served then does not depend on the device that
    trained it: a CPU has float16 in software only.

    Args:
        model: functional `keras.Model`.

    Returns:
        `keras.Model` with the same weights; the model itself if all of it
        computes in float32.
    """
    config = model.to_json()
    for policy in ("mixed_bfloat16", "mixed_float16"):
        config = config.replace(f'"{policy}"', '"float32"')
    if config == model.to_json():
        return model
    with model.distribute_strategy.scope():
        exact = keras.models.model_from_json(config)
        exact.set_weights(model.get_weights())
    return exact


def of_this_worker(model):
    """Gives a model of several workers as one that needs no other worker.

    Args:
        model: functional `keras.Model`.

    Returns:
        `keras.Model` with the same weights, on this process' first device;
        the model itself if there are no other workers.
    """
    if workers.count(model.distribute_strategy) == 1:
        return model
    # In no strategy's scope: TensorFlow crashes where a `MirroredStrategy` is
    # made after one of several workers.
    alone = keras.models.model_from_json(model.to_json())
    alone.set_weights(model.get_weights())
    return alone


def predict(model, batches, num_examples, compute=None):
    """Computes logits, in the order of the examples; a long one shows progress.

    Args:
        model: `keras.Model` from images to logits, or to a dict of outputs.
        batches: `tf.data.Dataset` of `(inputs, targets)`, see
            `zoo.data.pipeline.evaluation_batches`. All but the last are a
            multiple of the number of replicas. With several workers they have
            the worker's `zoo.workers.share` of the examples.
        num_examples: int. How many examples there are, of all workers.
        compute: what `on_one_device` gives of the model, for several workers
            that predict again and again; `None` to make it.

    Returns:
        What the model gives, of all examples: a float32 array of shape
        `(num_examples, num_classes)`, or a dict of arrays.

    Raises:
        FloatingPointError: If a number of it is not finite.
    """
    strategy = model.distribute_strategy
    if workers.count(strategy) > 1:
        outputs = workers.gather(
            strategy,
            _predict_share(compute or on_one_device(model), batches),
            num_examples,
        )
    else:
        outputs = _predict_all(model, batches, num_examples)
    if not all(np.isfinite(x).all() for x in tf.nest.flatten(outputs)):
        raise FloatingPointError(
            f"The model {model.name!r} gives outputs that are not finite."
        )
    return outputs


def _predict_share(compute, batches):
    """Predicts on one device; `predict` of Keras would wait for all workers."""
    outputs = [
        tf.nest.map_structure(lambda x: x.numpy(), compute(inputs))
        for inputs, _ in batches
    ]
    return tf.nest.map_structure(lambda *x: np.concatenate(x), *outputs)


def _predict_all(model, batches, num_examples):
    """Predicts on all devices of this process."""
    replicas = model.distribute_strategy.num_replicas_in_sync

    def pad(inputs, targets):
        # A batch that cannot be shared out evenly may leave a replica an
        # empty one, at which its operations fail.
        missing = -tf.shape(targets)[0] % replicas

        def pad_one(x):
            return tf.pad(x, [[0, missing]] + [[0, 0]] * (len(x.shape) - 1))

        # Of a pair `predict` would take the second for targets.
        return (tf.nest.map_structure(pad_one, inputs),)

    num_batches = int(batches.cardinality())
    # At the end of a pass Keras begins another, for nothing, but of a data set
    # whose end it does not know.
    batches = batches.map(pad).take_while(lambda inputs: True)
    outputs = model.predict(
        batches,
        steps=num_batches,
        verbose=0,
        callbacks=[Progress("prediction", num_batches)],
    )
    return tf.nest.map_structure(lambda x: x[:num_examples], outputs)


def on_one_device(model):
    """Gives a model as a function of one batch, for work beside the training.

    `predict_on_batch` would hand every replica the whole batch.

    Args:
        model: `keras.Model`.

    Returns:
        callable from a batch of inputs to the model's outputs in inference.
    """
    return tf.function(
        lambda inputs: model(inputs, training=False), reduce_retracing=True
    )


def sigmoid(logits):
    """Gives the probabilities of logits, as a NumPy array."""
    return keras.ops.convert_to_numpy(keras.ops.sigmoid(logits))


class RefuseBrokenOptions(keras.callbacks.Callback):
    """Calls `check_distributable` before the first step."""

    def on_train_begin(self, logs=None):
        """Refuses what does not work under `MirroredStrategy`."""
        check_distributable(self.model)


class AverageStatistics(keras.callbacks.Callback):
    """Averages what the replicas have each seen of the images' statistics.

    Keras leaves the moving means and variances of a batch normalization to
    each replica, which has some of the images. At the end of an epoch all get
    the mean of them, so that every replica measures, and the first one saves,
    the same model.
    """

    def on_epoch_end(self, epoch, logs=None):
        """Averages the statistics of the layers that are trained."""
        statistics = [
            variable
            for layer in self.model._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
            and layer.trainable
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        workers.average(self.model.distribute_strategy, statistics)


class Validation(keras.callbacks.Callback):
    """Adds the exact metrics of a whole data set to each epoch's logs.

    Average precision ranks all examples at once, so it cannot be streamed over
    batches. The logs gain `<prefix>_mAP`, `<prefix>_CF1`, `<prefix>_OF1` and
    `<prefix>_loss`, which compares with all targets, whatever the training
    makes of them.

    Args:
        batches: `tf.data.Dataset` of `(images, targets)`, one pass.
        targets: float32 array of shape `(num_examples, num_classes)`.
        prefix: str. `"val"`, or `"train"` where nothing is held out.
        directory: path of the checkpoints, for the error's message.
        predictor: `keras.Model` over the layers of the one that is trained, or
            `None` for itself. Its logits may have an axis of steps, `(batch,
            steps, num_classes)`: their mean ranks the examples.
        relative: bool. For a loss that sees differences of logits only, so that
            0 is no border: the one of the best OF1 on these very examples is
            taken off first. CF1 and OF1 are a little better for that.

    Raises:
        FloatingPointError: If the model's answers are not finite; names the
            epoch and the last good checkpoint.
    """

    def __init__(
        self,
        batches,
        targets,
        prefix,
        directory,
        predictor=None,
        relative=False,
    ):
        super().__init__()
        self.predictor = predictor
        self.relative = relative
        self.batches = batches
        self.targets = targets
        self.prefix = prefix
        self.directory = directory
        self.compute = None
        # Of the last epoch, (num_examples, num_classes) and (num_classes,).
        self.probabilities = None
        self.average_precision = None

    def on_epoch_end(self, epoch, logs=None):
        """Predicts and measures."""
        predictor = self.predictor or self.model
        self.compute = self.compute or on_one_device(predictor)
        try:
            logits = predict(
                predictor, self.batches, len(self.targets), self.compute
            )
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{error} This is after the last step of epoch {epoch + 1}. "
                + _advice(self.directory)
            ) from error
        loss = self.model.loss(self.targets, logits)
        if logits.ndim == 3:
            logits = logits.mean(axis=1)
        if self.relative:
            logits -= metrics.score_threshold(self.targets, logits)[0]
        probabilities = self.probabilities = sigmoid(logits)
        f1 = metrics.precision_recall_f1(self.targets, probabilities)
        self.average_precision = metrics.average_precision(
            self.targets, probabilities
        )
        logs[f"{self.prefix}_loss"] = float(loss)
        logs[f"{self.prefix}_mAP"] = metrics.mean_average_precision(
            self.targets, probabilities
        )
        logs[f"{self.prefix}_CF1"] = f1["CF1"]
        logs[f"{self.prefix}_OF1"] = f1["OF1"]


class ReduceOnPlateau(keras.callbacks.Callback):
    """Lowers the learning rate of every group where a metric rises no more.

    `keras.callbacks.ReduceLROnPlateau` lowers that of one optimizer only, and
    forgets in a resumed run how long it has waited. This one reads that from
    the history; it goes before `Checkpoint`, which saves the lower rates.

    Args:
        history: list of dict, as given to `Checkpoint`.
        monitor: str. As given to `Checkpoint`.
        patience: int, at least 1. Epochs without a gain before each fall.
        factor: float. Of each fall.
    """

    def __init__(self, history, monitor, patience, factor=0.1):
        super().__init__()
        self.history = history
        self.monitor = monitor
        self.patience = patience
        self.factor = factor

    def on_epoch_end(self, epoch, logs=None):
        """Lowers the rates if this epoch was one too many."""
        earlier = [row[self.monitor] for row in self.history]
        values = [*earlier, logs[self.monitor]]
        if plateaus(values, self.patience) > plateaus(earlier, self.patience):
            for optimizer in checkpoints.groups(self.model):
                rate = keras.ops.convert_to_numpy(optimizer.learning_rate)
                optimizer.learning_rate = float(rate) * self.factor


def plateaus(values, patience):
    """Counts how often a metric did not rise for some time.

    Args:
        values: list of float, one an epoch. NaN is no rise.
        patience: int. Epochs in a row without a gain over the best one, of
            more than `LEAST_GAIN`, that make a plateau.

    Returns:
        int.

    Example:

    >>> plateaus([0.1, 0.5, 0.5, 0.4, 0.3, 0.5, 0.9], patience=2)
    2
    """
    best, waited, count = -math.inf, 0, 0
    for value in values:
        if value > best + LEAST_GAIN:
            best, waited = value, 0
        else:
            waited += 1
        if waited == patience:
            waited, count = 0, count + 1
    return count


class LearningRates(keras.callbacks.Callback):
    """Adds the learning rate of each optimizer group to the epoch's logs.

    It is the rate of the epoch's first step.
    """

    def __init__(self):
        super().__init__()
        self.rates = {}

    def on_epoch_begin(self, epoch, logs=None):
        """Reads the rates."""
        self.rates = {
            f"learning_rate_{optimizer.name}": float(
                keras.ops.convert_to_numpy(optimizer.learning_rate)
            )
            for optimizer in checkpoints.groups(self.model)
        }

    def on_epoch_end(self, epoch, logs=None):
        """Hands them to the callbacks that follow."""
        logs.update(self.rates)


class StopOnNaN(keras.callbacks.Callback):
    """Ends training where the loss is no longer a number.

    Args:
        directory: str or path, as given to `Checkpoint`.

    Raises:
        FloatingPointError: Names the step and the last good checkpoint.
    """

    def __init__(self, directory):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        """Remembers the epoch for the message."""
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        """Looks at the loss."""
        if math.isfinite(logs["loss"]):
            return
        raise FloatingPointError(
            f"The loss is {logs['loss']} in step {batch + 1} of epoch "
            f"{self.epoch + 1}. {_advice(self.directory)}"
        )


class Progress(keras.callbacks.Callback):
    """Prints lines with the time left, where Keras' own bar says too little.

    The bar knows of the steps in an epoch only, and is not shown at all where
    the output goes to a file. So: a line between two epochs; and one every
    `PROGRESS_SECONDS` within a prediction, or within an epoch without the bar.

    Args:
        what: str. Of what the steps of a prediction are.
        num_steps: int or `None`. Steps of a prediction.
    """

    def __init__(self, what=None, num_steps=None):
        super().__init__()
        self.what = what
        self.num_steps = num_steps
        self.epoch = None

    def on_epoch_begin(self, epoch, logs=None):
        """Prints the time left; after the epoch Keras' bar would be torn."""
        now = time.monotonic()
        if self.epoch is not None:
            left = self.params["epochs"] - epoch
            clock = _clock((now - self.start) * left)
            print(f"epochs to go: {left}, about {clock} left", flush=True)
        self.epoch = epoch
        self.start = self.printed = now

    def on_train_batch_end(self, batch, logs=None):
        """Prints, where there is no bar."""
        if not sys.stdout.isatty():
            self._step(f"epoch {self.epoch + 1}", batch, self.params["steps"])

    def on_predict_begin(self, logs=None):
        """Starts the clock."""
        self.start = self.printed = time.monotonic()

    def on_predict_batch_end(self, batch, logs=None):
        """Prints, now and then."""
        self._step(self.what, batch, self.num_steps)

    def _step(self, what, batch, steps):
        now = time.monotonic()
        if now - self.printed < PROGRESS_SECONDS:
            return
        self.printed = now
        done = batch + 1
        clock = _clock((now - self.start) / done * (steps - done))
        print(f"{what}: step {done} of {steps}, about {clock} left", flush=True)


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def callbacks(
    directory,
    classes,
    batches,
    targets,
    pictures,
    hyperparameters,
    history,
    prefix="val",
    averages=False,
    patience=None,
    predictor=None,
    relative=False,
    profile=0,
):
    """Lists the callbacks of a run, each before those that read its logs.

    Args:
        directory: path of the run; gains `checkpoints`, `tensorboard` and
            `history.csv`.
        classes: tuple of str.
        batches: as `Validation`.
        targets: as `Validation`.
        pictures: as `zoo.tensorboard.TensorBoard`; the chief's alone counts.
        hyperparameters: as `zoo.tensorboard.TensorBoard`.
        history: list of dict, the logs of the epochs before, as
            `zoo.checkpoints.resume` gives it.
        prefix: as `Validation`.
        averages: bool. Whether the optimizers keep moving averages of the
            weights, which are then what is measured and saved.
        patience: as `ReduceOnPlateau`; `None` for none.
        predictor: as `Validation`.
        relative: as `Validation`.
        profile: int. How many steps `zoo.tensorboard.Profile` traces, within
            `zoo.tensorboard.no_trace_left`.

    Returns:
        list of `keras.callbacks.Callback`.
    """
    directory = pathlib.Path(directory)
    states = directory / "checkpoints"
    monitor = f"{prefix}_mAP"
    validation = Validation(
        batches, targets, prefix, states, predictor, relative
    )
    swap = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]
    reduce = [ReduceOnPlateau(history, monitor, patience)]
    listed = [
        RefuseBrokenOptions(),
        StopOnNaN(states),
        AverageStatistics(),
        *(swap if averages else []),
        validation,
        LearningRates(),
        *(reduce if patience is not None else []),
        checkpoints.Checkpoint(states, monitor, history),
    ]
    if not workers.is_chief():
        return listed
    directory.mkdir(parents=True, exist_ok=True)
    board = directory / "tensorboard"
    trace = [tensorboard.Profile(board, profile)]
    return [
        *(trace if profile else []),
        *listed,
        checkpoints.HistoryFile(directory / "history.csv", history),
        tensorboard.TensorBoard(
            board,
            classes,
            validation,
            pictures,
            hyperparameters,
        ),
        Progress(),
    ]


def _advice(directory):
    folder = "in the chief's folder"
    if workers.is_chief():
        folder = checkpoints.last(directory) or "none"
    return (
        f"The last good checkpoint is {folder}. A lower learning rate, or a "
        "longer warm-up, often helps."
    )
