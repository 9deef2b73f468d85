"""Show the examples of docstrings as code: an extension of griffe, which reads them for MkDocs.

It takes `Examples:` for code, and `Example:`, the heading of this repository, for prose.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object


class DocstringExamples(Extension):
    """Renames the heading of every docstring."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Rename the heading in the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = re.sub("^Example:$", "Examples:", obj.docstring.value, flags=re.M)
