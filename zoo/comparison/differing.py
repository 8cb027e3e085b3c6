"""What tells runs from one another: names of groups, notes below a table."""

import collections

# They follow from other fields, or say little to a reader.
LAST_TO_NAME = ("regions", "data_sha256")
# Of the run's card: what numbers may depend on beside the recipe.
MAKERS = ("commit", "workers", "replicas")


def settings(recipes):
    """Finds what tells each recipe from the others of its method.

    Args:
        recipes: list of dict, with `method` among the fields.

    Returns:
        list of dict, one for each recipe: from field to how it reads.

    Example:

    >>> settings([{"method": "csra", "epochs": epochs} for epochs in (3, 9)])
    [{'epochs': 'epochs=3'}, {'epochs': 'epochs=9'}]
    """
    found = []
    for recipe in recipes:
        others = [r for r in recipes if r["method"] == recipe["method"]]
        fields = [
            field
            for field in recipe
            if any(other.get(field) != recipe[field] for other in others)
        ]
        # Code is told beside all else.
        code = [field for field in fields if field == "commit"]
        fields = [field for field in fields if field not in code]
        told = [field for field in fields if field not in LAST_TO_NAME]
        found.append(
            {
                field: f"{field}={_short(recipe, field)}"
                for field in [*(told or fields), *code]
            }
        )
    return found


def between_methods(recipes, named):
    """Notes the fields that all recipes have, and that differ among methods.

    Args:
        recipes: list of dict.
        named: what `settings` gives of them, which says the rest.

    Returns:
        list of str.

    Example:

    >>> fan, gap = {"method": "fan", "dim": 9}, {"method": "gap", "dim": 8}
    >>> between_methods([fan, gap], settings([fan, gap]))
    ['dim differs: 9 (fan); 8 (gap)']
    """
    notes = []
    for field in recipes[0]:
        shared = all(field in recipe for recipe in recipes)
        told = all(field in shown for shown in named)
        # Pooling is what tells GAP from GMP.
        if not shared or told or field in ("method", "pooling"):
            continue
        methods = {}  # of each value, in order and once
        for recipe in recipes:
            value = _short(recipe, field)
            methods.setdefault(value, {})[recipe["method"]] = None
        if len(methods) > 1:
            values = (
                f"{value} ({', '.join(m)})" for value, m in methods.items()
            )
            notes.append(f"{field} differs: {'; '.join(values)}")
    return notes


def makers(cards):
    """Notes commits, devices and versions, where runs were made by several.

    Of a run that was stopped and resumed by others all count.

    Args:
        cards: list of dict.

    Returns:
        list of str.

    Example:

    >>> makers([{"commit": "a"}, {"commit": "b"}, {"commit": "b"}])
    ['commit differs: a (1 run); b (2 runs)']
    """
    found = [
        [
            {name: start.get(name) for name in MAKERS}
            | start.get("versions", {})
            for start in (*card.get("earlier_starts", ()), card)
        ]
        for card in cards
    ]
    names = (name for starts in found for start in starts for name in start)
    notes = []
    for name in dict.fromkeys(names):
        counts = collections.Counter(
            ", then ".join(dict.fromkeys(str(s.get(name)) for s in starts))
            for starts in found
        )
        if len(counts) > 1 or any(", then " in value for value in counts):
            values = (
                f"{value} ({n} run{'s' if n > 1 else ''})"
                for value, n in counts.items()
            )
            notes.append(f"{name} differs: {'; '.join(values)}")
    return notes


def _short(recipe, field):
    value = str(recipe[field])
    if field == "commit":  # and whether it was changed since
        return value[:8] + value[40:]
    return value[:8] if field.endswith("sha256") else value
