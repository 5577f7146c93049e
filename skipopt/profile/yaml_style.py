"""The layout of a profile as YAML."""

from __future__ import annotations

import re
import shlex

import yaml

from skipopt.yaml_values import VALUES


class Dumper(yaml.SafeDumper):
    """Writes each value or item of a section on one line, nested ones included."""

    def serialize(self, node: yaml.Node) -> None:
        for _, section in node.value:
            for value in _values(section):
                if isinstance(value, yaml.CollectionNode):
                    value.flow_style = True
        super().serialize(node)


# Text that only YAML 1.2 takes for a number is quoted too: a commit like 12e4567.
Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(rf"(?:{VALUES['float'].pattern})\Z"), None
)


def _values(section: yaml.Node) -> list[yaml.Node]:
    if isinstance(section, yaml.MappingNode):
        return [value for _, value in section.value]
    return list(section.value) if isinstance(section, yaml.SequenceNode) else []


def header(model: str, name: str) -> str:
    """The comment on top: the command that decodes `model` with the profile file `name`."""
    command = shlex.join(["skipopt", "run", model, "--profile", name])
    if not command.isprintable():  # a line break would end the comment
        command = "skipopt run MODEL --profile FILE"
    return (
        "# A skipopt profile: how a model drafts for itself; written by `skipopt search`.\n"
        f"# Use it: {command}"
    )
