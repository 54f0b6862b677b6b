"""YAML in which a key given twice in one mapping is an error. PyYAML keeps the last one and drops the first."""

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1}: the key {key.value!r} is there twice")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """Parse one YAML document into plain Python values (`yaml.safe_load`).

    Raises:
        yaml.YAMLError: It is not YAML, or a mapping has a key twice; the message gives the line.
        ValueError: A scalar looks like a date or number and is none, such as 2024-13-45.
    """
    return yaml.load(text, _Loader)  # nosec B506 # a SafeLoader
