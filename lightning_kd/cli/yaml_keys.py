"""Reject duplicate keys in YAML mappings."""

from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

MERGE_TAG = "tag:yaml.org,2002:merge"
"""Tag of ``<<``, which a mapping may have several times."""

_load_yaml = get_loader("yaml")


def check_unique_keys(text: str) -> None:
    """Raise if a mapping in a YAML text has a key twice, of which YAML readers silently keep the last.

    Raises:
        yaml.YAMLError: If one has; the message names the key and the line.
    """
    nodes, checked = [yaml.compose(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))], set()
    for node in nodes:  # grows
        if id(node) in checked or not isinstance(node, yaml.CollectionNode):
            continue
        checked.add(id(node))  # an anchor may contain itself
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
            continue
        names = set()
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in names and key.tag != MERGE_TAG:
                raise yaml.YAMLError(f"{name!r} is given twice, the second time in line {line}; remove one")
            names.add(name)
            nodes.append(value)


def _load_yaml_with_unique_keys(text: str) -> Any:
    check_unique_keys(text)
    return _load_yaml(text)


def refuse_duplicate_keys() -> None:
    """Let jsonargparse refuse them in all configs; call it only at the start of a process of this library."""
    set_loader("yaml", _load_yaml_with_unique_keys, (yaml.YAMLError,))
