"""Which of a backbone's feature maps a method reads."""


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
