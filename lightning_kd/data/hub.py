"""Data sets of the hub."""

import datasets


def load_hub_dataset(path: str, config_name: str | None) -> datasets.DatasetDict:
    """Load a data set of the hub, or from the cache of ``datasets``.

    Args:
        path: Its id.
        config_name: Its configuration, where it has several.

    Raises:
        OSError: If it cannot be had; says what to do.
    """
    try:
        loaded: datasets.DatasetDict = datasets.load_dataset(path, config_name)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise OSError(
            f"data.path: {path!r} is neither a file or folder here nor a data set that the hub could give "
            f"({cause:.120}); check the name and the connection, or give a local path"
        ) from error
    return loaded
