"""YAML that people write: names and values, each once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from iql_fast.support.errors import UserError


def read_mapping(path: Path, called: str) -> dict[str, Any]:
    """The names and values in a file.

    Args:
        called: what errors call the file.

    Raises:
        UserError: it cannot be read, is not YAML, holds something else, or a name twice.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc, unused-ignore]  # has types or has none
        """Refuses a key that stands twice, of which YAML would take the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise UserError(f"{called}: {key} stands there twice.")
            return dict(super().construct_mapping(node, deep))

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise UserError(f"{called} cannot be read: {error.strerror}.") from None
    except UserError:
        raise
    except Exception as error:  # PyYAML raises whatever its tags come to: KeyError, IndexError, ...
        said = str(error) or type(error).__name__
        raise UserError(f"{called} is not YAML: {said}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{called} must hold lines of the form `option: value`.")
    return content
