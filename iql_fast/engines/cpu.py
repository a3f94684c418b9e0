"""The C++ engine on the CPU."""


def unavailable_reason() -> str:
    """Why the engine cannot be used here; empty where it can."""
    return "not built yet"
