"""The steps that every recipe shares: train, measure, draw, export."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import pathlib
import shlex
import shutil
import sys

import keras
import numpy as np

from export import saved_model
from recipes import evidence
from recipes.answers import answers_of
from recipes.cli import BACKBONES, EXPLAIN, Recipe, clear_errors, run_name
from recipes.data import Data, read_data, with_regions
from recipes.losses import make_loss
from zoo import (
    checkpoints,
    reports,
    runs,
    tensorboard,
    training,
    workers,
)
from zoo.data import memory, pipeline

NUM_PICTURES = 8
MOST_WATCHED = 1000  # training images, where none is held out


@dataclasses.dataclass(frozen=True)
class Run:
    """What the phases of a training share.

    Args:
        directory: `pathlib.Path` of the run.
        method: str, a key of `EXPLAIN`.
        recipe: the method's dataclass.
        data: `Data`.
        resume: bool. Whether to go on with what is in the folder.
        model: `keras.Model`, which is saved, measured and served.
        backbone: `keras.Model`, a layer of it.
        profile: int. Steps of every phase that are traced.
    """

    directory: pathlib.Path
    method: str
    recipe: Recipe
    data: Data
    resume: bool
    model: keras.Model
    backbone: keras.Model
    profile: int = 0

    @property
    def watched(self):
        """The examples that choose the epoch: some that train, if no others."""
        every = -(-len(self.data.training) // MOST_WATCHED)
        return self.data.validation or self.data.training[::every]

    @contextlib.contextmanager
    def building(self):
        """Makes and compiles models for the run's devices and precision."""
        strategy = self.model.distribute_strategy
        with strategy.scope(), training.precision(self.recipe.precision):
            yield


def make_backbone(recipe):
    """Builds the backbone that a recipe names."""
    arguments = (
        {}
        if recipe.normalization == "weights"
        else {"normalization": recipe.normalization}
    )
    if recipe.backbone == "tiny" and arguments:
        raise ValueError(
            "`tiny` has one normalization, that of its weights. "
            f"Received: normalization={recipe.normalization!r}"
        )
    pretrained = None if recipe.pretrained == "none" else recipe.pretrained
    return BACKBONES[recipe.backbone](
        recipe.image_size, pretrained=pretrained, **arguments
    )


def _optimizer(recipe, name, learning_rate, steps):
    # A short trial reaches its highest rate, too.
    warmup_steps = min(
        round(recipe.warmup_epochs * steps), recipe.epochs * steps // 2
    )
    if recipe.schedule in ("constant", "plateau"):
        rate = learning_rate
    elif recipe.schedule == "step":
        rate = training.WarmupStepDecay(
            learning_rate, warmup_steps, round(recipe.decay_epochs * steps)
        )
    else:
        rate = training.WarmupCosineDecay(
            learning_rate, warmup_steps, recipe.epochs * steps - warmup_steps
        )
    shared = {
        "name": name,
        "use_ema": recipe.ema_momentum > 0,
        "ema_momentum": recipe.ema_momentum,
    }
    if recipe.optimizer == "adamw":
        return keras.optimizers.AdamW(
            rate, weight_decay=recipe.weight_decay, **shared
        )
    # The papers' decay goes through the momentum, which sums it up to
    # 1 / (1 - momentum) of itself; Keras' decay does not.
    momentum = 0.9
    return keras.optimizers.SGD(
        rate,
        momentum=momentum,
        weight_decay=recipe.weight_decay / (1 - momentum),
        **shared,
    )


def train(
    method,
    recipe,
    arguments,
    build,
    phases=None,
    settle=None,
    regions=None,
):
    """Trains, measures, explains and exports: the steps of every recipe.

    Args:
        method: str. Name of the method, a key of `recipes.cli.EXPLAIN`.
        recipe: the recipe's dataclass.
        arguments: `argparse.Namespace` from `recipes.cli.parse`.
        build: callable `(recipe, backbone, data)` to `keras.Model`.
        phases: callable that takes the `Run` and trains its model, by `fit`
            once or more; `None` for once.
        settle: callable that takes the `Run` and its model in float32, settles
            what is left to choose once the weights are, and gives it as a dict
            for the card; `None` for nothing.
        regions: dict, the arguments of `zoo.data.proposals.propose`, for a
            model that looks at given regions; `None` for others.

    Returns:
        `pathlib.Path` of the run, which has ended.
    """
    directory = arguments.output_dir or pathlib.Path("runs") / run_name(
        method, arguments.dataset, recipe.backbone, recipe.seed
    )
    identity = {
        "method": method,
        "dataset": arguments.dataset,
        **dataclasses.asdict(recipe),
        **({"regions": regions} if regions else {}),
    }
    memory.keep()
    with clear_errors(), workers.named_if_lost():
        strategy = training.strategy(arguments.devices)
        if _has_ended(strategy, directory, identity, arguments.resume):
            print(f"The run in {directory} has ended: nothing is left to do.")
            return directory
        replicas = strategy.num_replicas_in_sync
        if recipe.batch_size % replicas:
            raise ValueError(
                f"`batch_size` must be a multiple of the {replicas} replicas. "
                f"Received: batch_size={recipe.batch_size}"
            )
        data = read_data(
            arguments.dataset, arguments.data_dir, recipe.validation_fraction
        )
        if data.largest_side:
            identity["largest_side"] = data.largest_side
        identity["data_sha256"] = digest(
            data.training, data.validation, largest_side=data.largest_side
        )
        test_sha256 = digest(data.test, largest_side=data.largest_side)
        made_by = {"versions": runs.versions(), "commit": runs.commit()}
        _has_ended(strategy, directory, identity, arguments.resume, made_by)
        pipeline.steps_per_epoch(data.training, recipe.batch_size)
        data = dataclasses.replace(
            data,
            **{
                part: with_regions(getattr(data, part), regions)
                for part in ("training", "validation", "test")
            },
        )
        keras.utils.set_random_seed(recipe.seed)
        with strategy.scope(), training.precision(recipe.precision):
            backbone = make_backbone(recipe)
            model = build(recipe, backbone, data)
        run = Run(
            directory,
            method,
            recipe,
            data,
            arguments.resume,
            model,
            backbone,
            arguments.profile,
        )
        _compile(run, model, recipe)
        # What would be wrong later is wrong at once.
        training.check_distributable(model)
        workers.share(strategy, len(run.watched))
        own_images = recipe.batch_size // workers.count(strategy)
        if own_images < 2 and (recipe.mixup or recipe.cutmix):
            raise ValueError(
                "`mixup` and `cutmix` need two images of a batch in each "
                f"worker. Received: batch_size={recipe.batch_size}, "
                f"{workers.count(strategy)} workers"
            )
        start = {
            "devices": arguments.devices,
            "workers": workers.count(strategy),
            "replicas": replicas,
            **made_by,
            "command": shlex.join(["python", *sys.argv]),
        }
        earlier_starts, lock = _begin(
            strategy, directory, identity, start, arguments.resume
        )

    def finish():
        alone = training.in_float32(training.of_this_worker(model))
        ended = dataclasses.replace(run, model=alone)
        settled = settle(ended, alone) if settle else {}
        data_dir = arguments.data_dir and str(arguments.data_dir.resolve())
        card = {
            **identity,
            **settled,
            "data_dir": data_dir,
            "test_sha256": test_sha256,
            "num_training_images": len(data.training),
            "num_validation_images": len(data.validation),
            "classes": data.classes,
            "preprocessing": {
                "image_size": recipe.image_size,
                "resize": "bilinear with antialiasing, to a square",
                "pixels": "RGB, 0 to 255; the model normalises them itself",
            },
            **start,
            "earlier_starts": earlier_starts,
        }
        _finish(directory, alone, recipe, data, card)

    with (
        lock,
        clear_errors((FloatingPointError, OSError)),
        workers.named_if_lost(),
        pipeline.named_if_unreadable(
            [*data.training, *data.validation, *data.test]
        ),
        training.named_if_full(directory),
    ):
        (phases or fit)(run)
        # The chief alone measures and writes; the others wait for it.
        workers.from_chief(strategy, finish)
    return directory


def _has_ended(strategy, directory, identity, resume, made_by=None):
    """Checks, for all workers, that the run may write to its folder.

    Only the chief has the folder. The others must do what it does, by the same
    versions and commit, which are `made_by`.

    Returns:
        bool, as `zoo.runs.check`.

    Raises:
        ValueError: If the run may not be, or this worker would do another.
    """
    wanted = {**identity, **(made_by or {}), "resume": resume}

    def check():
        try:
            ended = runs.check(directory, identity, resume)
            if not ended and (directory / runs.LOCK).exists():
                with runs.claim(directory):
                    pass
        except (OSError, ValueError) as error:
            return {"error": str(error)}
        return {"ended": ended, "wanted": wanted}

    chief = workers.from_chief(strategy, check)
    if "error" in chief:
        raise ValueError(chief["error"])
    if workers.count(strategy) > 1:
        other = runs.differences(chief["wanted"], wanted)
        if workers.total(strategy, np.array([bool(other)], "int32"))[0]:
            raise ValueError(
                "All workers must train the same recipe on the same data, by "
                "the same code. "
                "Received, of the chief (then) and of worker "
                f"{workers.index(strategy)} (now): {other or 'no difference'}"
            )
    return chief["ended"]


def _begin(strategy, directory, identity, start, resume):
    """Takes the folder of the run, in the chief; all workers end if it cannot.

    Returns:
        list of dict, what `start` was in the processes before, and a context
        manager that holds the folder.
    """
    held = contextlib.ExitStack()

    def begin():
        try:
            starts, lock = runs.begin(directory, identity, start, resume)
        except (OSError, ValueError) as error:
            return {"error": str(error)}
        held.enter_context(lock)
        return {"starts": starts}

    begun = workers.from_chief(strategy, begin)
    if "error" in begun:
        raise ValueError(begun["error"])
    *earlier, now = begun["starts"]
    same = ("versions", "commit", "workers", "replicas")
    changed = earlier and runs.differences(
        earlier[-1], {name: now[name] for name in same}
    )
    if changed and workers.is_chief():
        print(
            "Warning: the run goes on in other circumstances, so its numbers "
            f"may not be those of a run that was not stopped: {changed}",
            file=sys.stderr,
        )
    return earlier, held


def digest(*parts, largest_side=None):
    """Tells data from other data, by all that its examples know but the pixels.

    The files are not read, so it costs next to nothing, and shards of the same
    images have the same.

    Args:
        *parts: lists of `Example`, whose order counts.
        largest_side: int, as `zoo.data.example.Dataset`.

    Returns:
        str, the sha256 of ids, targets, crops, boxes with what they show,
        regions, and the side to which images were resized.
    """
    sha256 = hashlib.sha256()
    if largest_side:
        sha256.update(f"largest_side={largest_side}".encode())
    for example in itertools.chain(*parts):
        sha256.update(example.image_id.encode("utf-8", "surrogateescape"))
        for array in (
            example.targets,
            # As in shards. A reader may give it more precisely.
            np.array(example.crop or (), "float32"),
            example.boxes,
            example.box_classes,
            example.box_difficult,
            *([] if example.regions is None else [example.regions]),
        ):
            sha256.update(array.tobytes())
    return sha256.hexdigest()


def _compile(run, model, recipe, loss=None):
    steps = pipeline.steps_per_epoch(run.data.training, recipe.batch_size)
    with run.building():
        model.compile(
            training.two_groups(
                model,
                run.backbone,
                _optimizer(
                    recipe, "backbone", recipe.backbone_learning_rate, steps
                ),
                _optimizer(recipe, "head", recipe.head_learning_rate, steps),
            ),
            make_loss(recipe, run.data.training, loss),
            jit_compile=False,  # broken under MirroredStrategy
        )


@tensorboard.no_trace_left()
def fit(
    run,
    recipe=None,
    phase="",
    model=None,
    predictor=None,
    batches=None,
    watched_batches=None,
    loss=None,
    relative=False,
    choose=True,
):
    """Trains to the last epoch and leaves the best one's weights.

    Without images that are held out the last epoch is the best; then some of
    the training images are watched.

    Args:
        run: `Run`.
        recipe: the numbers of this phase; `None` for the run's.
        phase: str. Folder in the run's, for a phase before the last.
        model: `keras.Model` that learns, from images to logits, over layers
            of the run's; `None` for the run's.
        predictor: as `zoo.training.Validation`.
        batches: callable that takes the first epoch and gives what the model
            learns from; `None` for images and targets.
        watched_batches: the same for `run.watched`, one pass, in their order.
        loss: `keras.losses.Loss` of targets and logits, the paper's, where the
            recipe names no other; `None` for the cross-entropy.
        relative: as `zoo.training.Validation`.
        choose: bool. `False` keeps the last epoch's weights in any case.
    """
    recipe, model = recipe or run.recipe, model or run.model
    data, watched = run.data, run.watched
    directory = run.directory / phase
    prefix = "val" if data.validation else "train"
    states = directory / "checkpoints"
    _compile(run, model, recipe, loss)
    workers.prepare(model)
    strategy = model.distribute_strategy
    history = checkpoints.resume(model, states) if run.resume else []
    if not history:  # a machine may have other weights to begin with
        workers.spread(strategy, model.variables)
    if workers.is_chief():  # a kill may have left out the last row
        checkpoints.write_history(directory / "history.csv", history)
    if len(history) < recipe.epochs:
        batches = batches or functools.partial(image_batches, run, recipe)
        model.fit(
            workers.distribute(
                strategy, batches(len(history)), recipe.batch_size
            ),
            steps_per_epoch=pipeline.steps_per_epoch(
                data.training, recipe.batch_size
            ),
            initial_epoch=len(history),
            epochs=recipe.epochs,
            callbacks=training.callbacks(
                directory,
                data.classes,
                watched_batches
                or pipeline.evaluation_batches(
                    watched[workers.share(strategy, len(watched))],
                    recipe.image_size,
                    recipe.batch_size // workers.count(strategy),
                ),
                np.stack([example.targets for example in watched]),
                evidence.painter(run, attention=not phase)
                if workers.is_chief()
                else None,
                {"method": run.method, **dataclasses.asdict(recipe)},
                history,
                prefix,
                averages=recipe.ema_momentum > 0,
                patience=(
                    round(recipe.decay_epochs)
                    if recipe.schedule == "plateau"
                    else None
                ),
                predictor=predictor,
                relative=relative,
                profile=run.profile,
            ),
            shuffle=False,  # the pipeline does
            verbose=_verbosity(),
        )
    if data.validation and choose:
        best = checkpoints.best(states, f"{prefix}_mAP")
        checkpoints.load(model, best)
        if workers.is_chief():
            print(f"The best epoch is that of {best}.")
    else:
        checkpoints.load(model, checkpoints.last(states))


def _verbosity():
    """Chooses how `fit` shows its progress; one worker is enough to show it."""
    if not workers.is_chief():
        return 0
    return 1 if sys.stdout.isatty() else 2


def image_batches(run, recipe, first_epoch, region_targets=False):
    """Gives the images and targets that a phase learns from."""
    strategy = run.model.distribute_strategy
    return pipeline.training_batches(
        run.data.training,
        recipe.image_size,
        recipe.batch_size,
        recipe.epochs,
        recipe.seed,
        first_epoch,
        recipe.crop_area,
        recipe.shift,
        recipe.rand_augment,
        recipe.flip,
        resize=recipe.resize,
        region_targets=region_targets,
        share=(workers.index(strategy), workers.count(strategy)),
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
        unknown=recipe.unknown,
    )


def _finish(directory, model, recipe, data, card):
    """Saves, measures, draws, exports; then the card, which ends the run."""
    runs.save_model(directory / runs.MODEL, model)
    batches = pipeline.evaluation_batches(
        data.test, recipe.image_size, recipe.batch_size
    )
    outputs = training.predict(model, batches, len(data.test))
    answers = answers_of(card, outputs)
    targets = np.stack([example.targets for example in data.test])
    runs.save_predictions(
        directory / runs.PREDICTIONS,
        data.test,
        targets,
        outputs,
        **vars(answers),
    )
    report = reports.measure(targets, classes=data.classes, **vars(answers))
    report = {
        "images": data.test_name,
        "num_missing": data.num_missing,
        **report,
    }
    runs.write_json(directory / runs.METRICS, report)
    evidence.draw_all(
        directory / "pictures",
        EXPLAIN[card["method"]](model),
        data.test[:NUM_PICTURES],
        answers.probabilities[:NUM_PICTURES],
        data.classes,
        recipe.image_size,
    )
    card = {**card, "metrics": report}
    base_path = directory / "export" / card["method"]
    # That of a run that was killed before its card was written.
    shutil.rmtree(base_path, ignore_errors=True)
    version = saved_model.export(model, data.classes, base_path, card=card)
    runs.write_json(directory / runs.CARD, card)
    title = f"{card['method']} on {data.test_name}"
    serve = f"--model {shlex.quote(card['method'] + '=' + str(base_path))}"
    path, span = data.test[0].location
    image = "photo.jpg" if span else path  # there may be no file to send
    ask = f"--model {card['method']} {shlex.quote(image)}"
    num_pictures = min(len(data.test), NUM_PICTURES)
    print(
        f"""
{reports.table(report, title)}

{directory}
  {runs.MODEL}, {runs.CARD}, {runs.METRICS}, {runs.PREDICTIONS}, history.csv
  pictures/      where the model looked, on {num_pictures} images
  tensorboard/   tensorboard --logdir {shlex.quote(str(directory.parent))}
  {version.relative_to(directory)}/ ready to serve

Serve it, then ask it:
  python -m serving.server --port 8500 {serve}
  python -m serving.client --target localhost:8500 {ask}"""
    )
