"""Names that older versions wrote into a configuration, and what they are called now."""

from typing import Any

# Read until 0.3.
CLASSES = {"mbrec.modules.interaction.DCN": "mbrec.model.interactions.dcn.DCN"}


def current(node: Any) -> Any:
    """Return saved settings with the present names of the classes in them.

    >>> current({"interaction": {"_target_": "mbrec.modules.interaction.DCN"}})
    {'interaction': {'_target_': 'mbrec.model.interactions.dcn.DCN'}}
    """
    if isinstance(node, dict):
        return {
            key: CLASSES.get(value, value)
            if key == "_target_" and isinstance(value, str)
            else current(value)
            for key, value in node.items()
        }
    return [current(value) for value in node] if isinstance(node, list) else node
