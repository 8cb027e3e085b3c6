import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tests.contract import check_layer
from zoo.losses import BinaryCrossentropy
from zoo.models.confidence_ranked_lstm import ConfidenceRankedLSTM
from zoo.models.order_free_rnn import (
    explain,
    feature_model,
    from_features,
    order_free_rnn,
    path_model,
    preliminary_model,
    step_model,
    with_beam_width,
)

K, T = 7, 4  # classes, longest sequence


def backbone(image_size=16):
    """Gives little more than the shapes of a backbone, in little time."""
    image = keras.Input((image_size, image_size, 3))
    p4 = keras.layers.Conv2D(6, 4, strides=4)(image)
    p4 = keras.layers.BatchNormalization()(p4)
    p5 = keras.layers.MaxPooling2D()(p4)
    return keras.Model(image, {"P4": p4, "P5": p5})


def build(threshold=0.1, **options):
    keras.utils.set_random_seed(0)
    return order_free_rnn(
        backbone(), K, T, units=8, threshold=threshold, **options
    )


def images(num_images=5):
    rng = np.random.default_rng(0)
    return rng.normal(size=(num_images, 16, 16, 3)).astype("float32")


def answer(model, inputs=None):
    """Gives what a model says, as NumPy arrays, without tracing it first."""
    outputs = model(images() if inputs is None else inputs)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(features, guess, weights):
    """Chen et al. (2018), eqs. (4) to (7), (9), (10): one image at a time.

    Args:
        features: array `(positions, channels)` of one image.
        guess: array `(num_classes,)`, logits.
        weights: dict from the end of a weight's path to its value.

    Returns:
        Logits `(T, num_classes)`, labels `(T,)`, attention `(T, positions)`.
    """

    def dense(x, name):
        return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    mean = features.mean(axis=0)
    h = np.tanh(dense(mean, "initial_hidden"))
    c = np.tanh(dense(mean, "initial_carry"))
    p, y = guess, np.zeros(len(guess))
    all_p, labels, all_attention = [], [], []
    for _ in range(T):
        energies = np.array(
            [
                weights["score/kernel"][:, 0]
                @ np.tanh(
                    weights["features/kernel"].T @ v
                    + weights["query/kernel"].T @ h
                )
                for v in features
            ]
        )
        attention = np.exp(energies) / np.exp(energies).sum()
        z = attention @ features
        v_pred = sigmoid(p)
        gates = (
            np.concatenate([v_pred, y, z]) @ weights["lstm/kernel"]
            + h @ weights["lstm/recurrent_kernel"]
            + weights["lstm/bias"]
        )
        i, f, g, o = np.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        hidden = dense(np.concatenate([v_pred, y, z, h]), "hidden")
        p = dense(np.maximum(hidden, 0), "logits")
        label = max((k for k in range(len(p)) if y[k] == 0), key=p.__getitem__)
        y = y.copy()
        y[label] = 1
        all_p.append(p)
        labels.append(label)
        all_attention.append(attention)
    return np.array(all_p), np.array(labels), np.array(all_attention)


@keras.saving.register_keras_serializable(package="tests")
class Steps(ConfidenceRankedLSTM):
    """The decoder as it is trained: integers have no gradient to check."""

    def call(self, features, guess, training=None):
        taken = super().call(features, guess, search=False, training=training)
        return taken["step_logits"]

    def compute_output_spec(self, features, guess, training=None):
        spec = super().compute_output_spec(features, guess, search=False)
        return spec["step_logits"]


class OrderFreeRnnTest(parameterized.TestCase, tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = build()
        cls.answers = answer(cls.model)

    @parameterized.parameters(True, False)
    def test_contract(self, attention):
        layer = Steps(
            *(5, 3, attention),
            units=4,
            dropout=0.1,
            beam_width=2,
            threshold=0.25,
        )
        check_layer(layer, [(2, 2, 3, 6), (2, 5)], self.get_temp_dir())

    def test_greedy_steps_match_paper(self):
        model = build(threshold=0.0, beam_width=1)
        decoder = model.get_layer("decoder")
        weights = {}
        for weight in decoder.weights:
            *_, layer, name = weight.path.split("/")
            weights[f"{layer}/{name}"] = weight.numpy()
        inputs = keras.Model(model.input, decoder.input)
        features, guess = answer(inputs)
        logits = answer(step_model(model))
        answers = answer(model)
        shown = answer(explain(model))
        close = {"rtol": 1e-4, "atol": 1e-5}
        for i in range(len(guess)):
            positions = features[i].reshape(-1, features.shape[-1])
            expected, labels, maps = reference(positions, guess[i], weights)
            confidences = sigmoid(expected[range(T), labels])
            self.assertAllClose(logits[i], expected, **close)
            self.assertAllEqual(answers["sequence"][i], labels)
            self.assertAllClose(
                answers["sequence_probabilities"][i], confidences, **close
            )
            self.assertAllClose(answers["logits"][i], expected[-1], **close)
            self.assertAllClose(
                answers["mean_logits"][i], expected.mean(axis=0), **close
            )
            self.assertAllEqual(shown["sequence"][i], labels)
            self.assertAllClose(
                shown["attention"][i].reshape(T, -1), maps, **close
            )

    def test_scores_are_those_of_the_steps_that_were_taken(self):
        model = build(beam_width=1, threshold=0.3)
        steps = answer(step_model(model))  # the same path, to its end
        answers = answer(model)
        lengths = (answers["sequence"] >= 0).sum(axis=1)
        self.assertGreater(len(set(lengths)), 1)
        for i, length in enumerate(lengths):
            # The step that ended the path took no label, and counts.
            taken = steps[i, : length + 1]
            self.assertAllClose(answers["logits"][i], taken[-1], atol=1e-5)
            self.assertAllClose(
                answers["mean_logits"][i], taken.mean(axis=0), atol=1e-5
            )

    def test_the_decoder_gets_a_guess_and_standardised_features(self):
        model = self.model
        maps = answer(model.layers[1])
        features, guess = answer(
            keras.Model(model.input, model.get_layer("decoder").input)
        )
        kernel, bias = model.get_layer("preliminary").get_weights()
        pooled = maps["P5"].mean(axis=(1, 2))
        self.assertAllClose(guess, pooled @ kernel + bias, atol=1e-5)
        p4 = maps["P4"]
        expected = p4 - p4.mean(axis=-1, keepdims=True)
        expected /= np.sqrt(p4.var(axis=-1, keepdims=True) + 1e-3)
        self.assertAllClose(features, expected, atol=1e-4)

    def test_pictures_are_of_the_path_that_was_found(self):
        model = build(beam_width=5, threshold=0.0)
        greedy = answer(build(beam_width=1, threshold=0.0))["sequence"]
        shown = answer(explain(model))
        self.assertNotAllEqual(shown["sequence"], greedy)
        decoder = model.get_layer("decoder")
        inputs = answer(keras.Model(model.input, decoder.input))
        for labels, same in ((shown["sequence"], True), (None, False)):
            maps = decoder(*inputs, search=False, labels=labels)["attention"]
            equal = np.allclose(maps, shown["attention"], atol=1e-5)
            self.assertEqual(equal, same)

    def test_another_beam_width(self):
        model = build(beam_width=5, threshold=0.0)
        narrow = answer(with_beam_width(model, 1))
        expected = answer(build(beam_width=1, threshold=0.0))
        self.assertAllEqual(narrow["sequence"], expected["sequence"])
        self.assertNotAllEqual(narrow["sequence"], answer(model)["sequence"])
        with self.assertRaisesRegex(ValueError, "beam_width=0"):
            with_beam_width(model, 0)

    def test_the_predictor_drops_in_training_only(self):
        for dropout in (0.0, 0.5):
            model = step_model(build(dropout=dropout))
            training = model(images(), training=True)
            inference = model(images(), training=False)
            same = np.allclose(training, inference, atol=1e-6)
            self.assertEqual(same, dropout == 0)

    def test_answers_have_their_padding_at_the_end(self):
        sequence = self.answers["sequence"]
        self.assertEqual(sequence.dtype, "int32")
        ended = sequence < 0
        self.assertTrue(ended.any() and not ended.all())
        self.assertAllEqual(ended, np.maximum.accumulate(ended, axis=1))
        probabilities = self.answers["sequence_probabilities"]
        self.assertAllEqual(probabilities == 0, ended)
        self.assertAllInRange(probabilities, 0, 1)

    @parameterized.product(
        precision=("float32", "mixed_bfloat16", "mixed_float16"),
        beam_width=(1, 3, 20),
    )
    def test_no_label_comes_twice(self, precision, beam_width):
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(precision)
        try:
            model = order_free_rnn(
                *(backbone(), K, K),
                units=8,
                threshold=0.0,
                beam_width=beam_width,
            )
        finally:
            keras.config.set_dtype_policy(before)
        for weight in model.get_layer("decoder").trainable_weights:
            weight.assign(30 * weight)  # confidences of nearly 1, many equal
        answers = model(images())
        self.assertEqual(answers["logits"].dtype, "float32")
        for sequence in answers["sequence"].numpy():
            self.assertCountEqual(sequence, range(K))
        decoder = model.get_layer("decoder")
        inputs = keras.Model(model.input, decoder.input)(images())
        for training in (False, True):
            steps = decoder(*inputs, search=False, training=training)
            for labels in steps["labels"].numpy():
                self.assertCountEqual(labels, range(K))

    @parameterized.product(
        precision=("float32", "mixed_bfloat16", "mixed_float16"),
        attention=(True, False),
    )
    def test_types_are_what_the_graph_says(self, precision, attention):
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(precision)
        try:
            model = build(attention=attention, threshold=0.07)
        finally:
            keras.config.set_dtype_policy(before)
        for part in (model, explain(model), path_model(model)):
            declared = {k: v.dtype for k, v in part.output.items()}
            given = {k: v.dtype.name for k, v in part(images()).items()}
            self.assertEqual(given, declared)
        # The threshold is not rounded to half precision.
        found = answer(path_model(model))
        decoder = model.get_layer("decoder")
        for threshold in found["path_probabilities"][:, :2].ravel():
            threshold *= 1 - 1e-5  # `exp` itself may round either way
            decoder.threshold.assign(threshold)
            lengths = (answer(model)["sequence"] >= 0).sum(axis=1)
            expected = (found["path_probabilities"] >= threshold).sum(axis=1)
            self.assertAllEqual(lengths, expected)

    def test_one_search_tells_the_answers_at_all_thresholds(self):
        found = answer(path_model(self.model))
        decoder = self.model.get_layer("decoder")
        before = decoder.threshold.numpy()
        seen = set()
        for threshold in (0.02, 0.1, 0.25, 0.5, 0.9):
            decoder.threshold.assign(threshold)
            answers = answer(self.model)
            lengths = (found["path_probabilities"] >= threshold).sum(axis=1)
            for i, length in enumerate(lengths):
                expected = found["paths"][i, length - 1] if length else [-1] * T
                self.assertAllEqual(answers["sequence"][i], expected)
            seen |= set(lengths)
        decoder.threshold.assign(before)
        self.assertGreater(len(seen), 2)

    def test_a_saved_model_is_the_same(self):
        path = f"{self.get_temp_dir()}/model.keras"
        self.model.get_layer("decoder").threshold.assign(0.07)
        before = answer(self.model)
        shown = answer(explain(self.model))
        self.model.save(path)
        self.model.get_layer("decoder").threshold.assign(0.05)
        loaded = keras.saving.load_model(path)
        threshold = loaded.get_layer("decoder").threshold
        self.assertAllClose(threshold, 0.07)
        for expected, model in ((before, loaded), (shown, explain(loaded))):
            answers = answer(model)
            keras.tree.map_structure(
                lambda x, y: self.assertAllClose(x, y, atol=1e-6),
                answers,
                expected,
            )

    def test_every_weight_learns_in_its_phase(self):
        model, x = build(), images()
        y = np.random.default_rng(0).integers(0, 2, (len(x), K)).astype("f4")
        loss = BinaryCrossentropy()
        learnt = set()
        for part in (preliminary_model(model), step_model(model)):
            weights = part.trainable_weights
            with tf.GradientTape() as tape:
                value = loss(y, part(x, training=True))
            gradients = tape.gradient(value, [w.value for w in weights])
            for weight, gradient in zip(weights, gradients, strict=True):
                self.assertTrue(np.any(gradient), weight.path)
            learnt |= {weight.path for weight in weights}
            model.get_layer("preliminary").trainable = False
        model.get_layer("preliminary").trainable = True
        self.assertEqual(learnt, {w.path for w in model.trainable_weights})

    def test_training_leaves_the_backbone_as_it_is(self):
        frozen = backbone()
        model = step_model(order_free_rnn(frozen, K, T, units=8))
        before = [keras.ops.copy(weight.value) for weight in frozen.weights]
        head = model.get_layer("decoder").trainable_weights
        head_before = [keras.ops.copy(weight.value) for weight in head]
        model.compile(
            keras.optimizers.Adam(0.1), BinaryCrossentropy(), jit_compile=False
        )
        model.fit(images(), np.ones((5, K), "float32"), verbose=0)
        for old, weight in zip(before, frozen.weights, strict=True):
            self.assertAllEqual(old, weight, weight.path)
        self.assertTrue(any("moving" in w.path for w in frozen.weights))
        for old, weight in zip(head_before, head, strict=True):
            self.assertNotAllEqual(old, weight, weight.path)

    def test_parts_run_from_features(self):
        features = answer(feature_model(self.model))
        for part in (
            preliminary_model(self.model),
            step_model(self.model),
            self.model,
        ):
            head = from_features(self.model, part)
            keras.tree.map_structure(
                lambda x, y: self.assertAllClose(x, y, atol=1e-5),
                answer(head, features),
                answer(part),
            )
        teacher = step_model(self.model, teacher=True)
        head = from_features(self.model, teacher)
        labels = np.full((5, T), -1, "int32")
        self.assertAllClose(
            answer(head, [*features, labels]),
            answer(teacher, [images(), labels]),
            atol=1e-5,
        )

    def test_a_teacher_takes_the_labels(self):
        own = answer(step_model(self.model))
        teacher = step_model(self.model, teacher=True)
        greedy = build(threshold=0.0, beam_width=1)
        labels = answer(greedy)["sequence"]
        same = answer(teacher, [images(), labels])
        self.assertAllClose(same, own, atol=1e-5)
        other = (labels + 1) % K
        changed = answer(teacher, [images(), other])
        self.assertAllClose(changed[:, 0], own[:, 0], atol=1e-5)
        self.assertNotAllClose(changed[:, 1], own[:, 1])

    def test_without_attention_all_positions_weigh_the_same(self):
        model = build(attention=False)
        paths = [weight.path for weight in model.get_layer("decoder").weights]
        self.assertFalse(any("/attention/" in path for path in paths))
        maps = answer(explain(model))["attention"]
        self.assertAllClose(maps, np.full((5, T, 4, 4), 1 / 16))
        shuffled = answer(feature_model(model))
        head = from_features(model, model)
        before = answer(head, shuffled)["logits"]
        shuffled[0] = shuffled[0][:, ::-1]
        after = answer(head, shuffled)["logits"]
        self.assertAllClose(before, after, atol=1e-5)

    def test_unknown_image_size_and_level(self):
        model = order_free_rnn(backbone(None), K, T, units=8, level="P5")
        shown = explain(model)(images())
        self.assertEqual(shown["attention"].shape, (5, T, 2, 2))

    def test_names_what_is_wrong(self):
        for options, message in (
            ({"max_labels": K + 1}, "max_labels=8, num_classes=7"),
            ({"max_labels": 0}, "max_labels=0"),
            ({"max_labels": 1, "level": "P2"}, "Received: level='P2'"),
            ({"max_labels": 1, "beam_width": 0}, "beam_width=0"),
            ({"max_labels": 1, "threshold": 2}, "threshold=2"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                order_free_rnn(backbone(), K, **options)
        with self.assertRaisesRegex(ValueError, "order_free_rnn"):
            explain(backbone())
        decoder = build().get_layer("decoder")
        for shape, message in (
            ((2, 4, 6), r"features_shape=\(2, 4, 6\)"),
            ((2, 4, 4, 6), r"guess_shape=\(2, 8\)"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                decoder.compute_output_spec(
                    keras.KerasTensor(shape), keras.KerasTensor((2, K + 1))
                )
