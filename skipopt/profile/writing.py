"""How a profile looks as a file. Knows nothing of its values."""

from __future__ import annotations

import shlex

import yaml


class Dumper(yaml.SafeDumper):
    """A line for each value or item: deeper than that, everything stays on the line."""

    def serialize(self, node: yaml.Node) -> None:
        for _, section in node.value:
            for value in _values(section):
                if isinstance(value, yaml.CollectionNode):
                    value.flow_style = True
        super().serialize(node)


def _values(section: yaml.Node) -> list[yaml.Node]:
    if isinstance(section, yaml.MappingNode):
        return [value for _, value in section.value]
    return list(section.value) if isinstance(section, yaml.SequenceNode) else []


def header(model: str, name: str) -> str:
    command = shlex.join(["skipopt", "run", model, "--profile", name])
    if not command.isprintable():  # a line break would end the comment
        command = "skipopt run MODEL --profile FILE"
    return (
        "# A skipopt profile: which sublayers a model skips while it drafts, and how far ahead.\n"
        f"# Use it: {command}"
    )
