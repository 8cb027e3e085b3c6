"""A backbone that is traced in a third of the time that `tiny` takes."""

import keras

WIDTH = 8


def backbone(image_size=32):
    """Builds a convolution, batch norm and ReLU for each of P3, P4 and P5.

    For tests of what goes on around a model, whatever it is. Models, their
    numbers and their files are tested with `zoo.backbones.tiny`.
    """
    image = keras.Input((image_size, image_size, 3), name="image")
    x = keras.layers.Rescaling(1 / 127.5, -1)(image)
    levels = {}
    for level, stride in (("P3", 8), ("P4", 2), ("P5", 2)):
        x = keras.layers.Conv2D(WIDTH, stride, stride, use_bias=False)(x)
        x = keras.layers.BatchNormalization()(x)
        x = levels[level] = keras.layers.ReLU()(x)
    return keras.Model(image, levels, name="small")
