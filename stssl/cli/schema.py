"""`schema`: what an editor needs to complete and check search files and recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from stssl.cli.common import errors


def schema(
    kind: Annotated[
        Literal["search", "recipe"], typer.Option("--kind", help="Of search files, or of recipes.")
    ] = "search",
    target: Annotated[
        Path | None, typer.Option("--out", help="Write to this file.", show_default="standard output")
    ] = None,
) -> None:
    """Print the JSON Schema of search files or recipes, with which an editor completes and checks them.

    An editor with a YAML language server takes it from the file's first line: `# yaml-language-server: $schema=FILE`.

    Example: `python launch.py schema --kind recipe --out recipe.schema.json`
    """
    from stssl.files import write_text
    from stssl.search.json_schema import recipe_schema, search_schema

    found = recipe_schema() if kind == "recipe" else search_schema()
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    if target is None:
        print(text, end="")
        return
    write_text(target, text)
    errors.print(f"written to {target}", markup=False)
