"""Which of a backbone's feature maps a method reads."""

import keras


def deepest(features):
    """Picks the deepest level, the one with the largest stride.

    Args:
        features: dict from level, `"P3"`, `"P4"`, ..., to feature map; the
            number is log2 of the stride.

    Returns:
        The feature map of the largest number.

    Example:

    >>> deepest({"P3": "fine", "P5": "coarse"})
    'coarse'
    """
    return features[max(features, key=lambda level: int(level[1:]))]


def named(features, level):
    """Picks a level by its name.

    Args:
        features: dict from level to feature map.
        level: str, such as `"P4"`.

    Returns:
        The feature map.

    Raises:
        ValueError: If there is no such level; names those that there are.

    Example:

    >>> named({"P3": "fine", "P5": "coarse"}, "P3")
    'fine'
    """
    if level not in features:
        raise ValueError(
            f"The backbone has the levels {sorted(features)}. "
            f"Received: level={level!r}"
        )
    return features[level]


def up_to(backbone, level):
    """Cuts a backbone at one of its levels.

    Weights above it would have no gradient, of which Keras warns, and would
    be saved and served for nothing.

    Args:
        backbone: `keras.Model` from images to a dict of feature maps, see
            `zoo.backbones`.
        level: str, such as `"P4"`.

    Returns:
        `keras.Model` over the same layers and of the same name, from images to
        that feature map.

    Raises:
        ValueError: If there is no such level; names those that there are.

    Example:

    >>> from zoo.backbones import tiny
    >>> up_to(tiny(image_size=64), "P4").output_shape
    (None, 4, 4, 96)
    """
    features = named(backbone.output, level)
    return keras.Model(backbone.input, features, name=backbone.name)
