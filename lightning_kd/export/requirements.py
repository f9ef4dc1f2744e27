"""Check for optional packages."""

from importlib.util import find_spec


def require_packages(caller: str, extra: str, *packages: str) -> None:
    """Raise if an optional package is missing.

    Args:
        caller: The class or command that needs the packages, for the message.
        extra: The extra of lightning-kd that installs them, such as ``onnx``.
        packages: Names by which the packages are imported.

    Raises:
        ValueError: If one is; the message contains the command that installs it.
    """
    if missing := [name for name in packages if find_spec(name) is None]:
        raise ValueError(f"{caller}: {', '.join(missing)} not installed; run pip install 'lightning-kd[{extra}]'")
