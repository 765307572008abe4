"""How a step, and what is wrong after it, are printed."""


def short(x):
    """Return an argument or a result, as short as it can be understood."""
    if isinstance(x, bytes) and len(x) > 8:
        return f"{x[:3]!r}...{len(x)}"
    if isinstance(x, dict):
        return "{" + ", ".join(f"{key}: {short(x[key])}" for key in x) + "}"
    if isinstance(x, tuple) and x[:1] == ("object",):
        return f"#{x[1]}"
    return repr(x)


def difference(expected, found):
    """Say where two looks at an object differ."""
    pairs = expected, found
    if all(isinstance(one, tuple) for one in pairs) and len(expected) == len(found):
        for one, other in zip(expected, found, strict=True):
            if one != other:
                return difference(one, other)
    if all(isinstance(one, bytes) for one in pairs) and len(expected) == len(found):
        at = next(
            i for i, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b
        )
        return (
            f"byte {at} of {len(expected)}: expected {expected[at]}, found {found[at]}"
        )
    return f"expected {short(expected)}, found {short(found)}"
