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
