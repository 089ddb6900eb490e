"""`plugins`: what can be chosen in a recipe or a search space, and within which limits."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from typing import Annotated, Any

import typer
from rich.text import Text

from stssl.cli.common import out
from stssl.cli.settings import parameters, row

# A sentence ends at a full stop, unless it is that of an abbreviation or initial, or no sentence begins after it.
_END = re.compile(r"(?<!\bal)(?<!\be\.g)(?<!\bi\.e)(?<!\b[A-Z])\.(?=\s+[^\s\da-z(]|\s*$)")


def plugins(
    which: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND or NAME",
            show_default=False,
            help="Only these: source, encoding, encoding.location, encoding.time, injection, algorithm, or a plugin's name.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what can be chosen (sources, encodings, injection points, algorithms), with settings, limits and papers.

    In a recipe: `algorithm: {name: fixmatch, threshold: 0.9}`; in a search space: `algorithm.name` and
    `algorithm.threshold`; a source and its settings: `prepare eurosat ROOT --set split=none`.

    Examples: `python launch.py plugins injection`, `python launch.py plugins fixmatch`
    """
    from stssl.errors import ConfigError, did_you_mean

    kinds = _kinds()
    names = {name for found in kinds.values() for name in found}
    words = {word for kind in kinds for word in (kind, *kind.split("."))}
    if which is not None and which not in names | words:
        raise ConfigError(f"no plugin or kind of plugin is called '{which}'; {did_you_mean(which, names | words)}")
    chosen = {
        kind: {name: plugin for name, plugin in found.items() if which in (None, name, kind, *kind.split("."))}
        for kind, found in kinds.items()
    }
    if as_json:
        print(json.dumps([_describe(kind, n, plugin) for kind, found in chosen.items() for n, plugin in found.items()]))
        return
    blocks = [(kind, found) for kind, found in chosen.items() if found]
    for number, (kind, found) in enumerate(blocks):
        if number:
            out.print()
        _show(kind, found, whole=which in names)


def _kinds() -> dict[str, dict[str, Any]]:
    """All plugins: kind to name to class. A kind is the key that chooses it in a recipe, or `source`."""
    from stssl.algorithms.base import Algorithm
    from stssl.data.sources.base import Source
    from stssl.encodings.base import LocationEncoding, TimeEncoding
    from stssl.models.injection.base import Injection
    from stssl.plugins import find

    return {
        "source": find("stssl.data.sources", Source),
        "encoding.location": find("stssl.encodings.location", LocationEncoding),
        "encoding.time": find("stssl.encodings.time", TimeEncoding),
        "injection": find("stssl.models.injection", Injection),
        "algorithm": find("stssl.algorithms", Algorithm),
    }


def _describe(kind: str, name: str, plugin: Any) -> dict[str, Any]:
    """A plugin as plain data."""
    text = inspect.cleandoc(plugin.__doc__ or "")
    return {
        "kind": kind,
        "name": name,
        "key": None if kind == "source" else kind,
        "default": name == _default(kind),
        "summary": _sentence(_module_text(plugin) or re.split(r"\bSource:", text)[0]),
        "source": _paper(text) or _paper(_module_text(plugin)),
        "parameters": parameters(plugin.Config),
    }


def _default(kind: str) -> str | None:
    """The plugin that a recipe has if it says nothing; no source is one."""
    from stssl.training.recipe import PLUGINS, Recipe

    if kind not in PLUGINS:
        return None
    config: Any = Recipe
    for key in kind.split("."):
        field = config.model_fields[key]
        config = field.annotation
    name: str = field.default["name"]
    return name


def _sentence(text: str) -> str:
    """The first sentence, on one line."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    end = _END.search(paragraph)
    return paragraph[: end.end()] if end else paragraph


def _paper(text: str) -> str | None:
    """What stands after `Source:`."""
    _, mark, rest = text.partition("Source:")
    return _sentence(rest).removesuffix(".") if mark else None


def _module_text(plugin: Any) -> str:
    return inspect.cleandoc(getattr(inspect.getmodule(plugin), "__doc__", None) or "")


def _show(kind: str, found: dict[str, Any], whole: bool) -> None:
    """Print the plugins of one kind; if `whole`, with all that is written about them."""
    entries = {name: _describe(kind, name, plugin) for name, plugin in found.items()}
    rows = {name: [row(p) for p in entry["parameters"]] for name, entry in entries.items()}
    keys, defaults = (max((len(one[i]) for some in rows.values() for one in some), default=0) for i in range(2))
    titles = {name: f"{name} (default)" if entry["default"] else name for name, entry in entries.items()}
    use = "prepare NAME ROOT --set SETTING=VALUE" if kind == "source" else f"keys: {kind}.name, {kind}.SETTING"
    out.print(Text.assemble((kind, "bold"), (f"  {use}", "dim")))
    for name, entry in entries.items():
        summary, paper = entry["summary"], entry["source"] or ""
        if whole:
            paper = "" if "Source:" in (found[name].__doc__ or "") else paper
        title = f"  {titles[name]:{max(map(len, titles.values()))}}  "
        _put(Text(title, style="cyan"), (summary, ""), (paper, "dim"))
        if whole:
            _tell(found[name])
        for key, default, legal in rows[name]:
            _put(Text.assemble(f"    {key:{keys}}  ", (f"{default:{min(defaults, 34)}}  ", "green")), (legal, ""))
        if whole and not rows[name]:
            out.print("    no settings")


def _put(head: Text, *texts: tuple[str, str]) -> None:
    """Print texts in their styles to the right of `head`."""
    if not any(text for text, _ in texts):
        out.print(head)
    for text, style in texts:
        for line in textwrap.wrap(text, max(20, out.width - len(head)), break_long_words=False):
            out.print(Text.assemble(head, (line, style)))
            head = Text(" " * len(head))


def _tell(plugin: Any) -> None:
    """Print what is written about a plugin and its settings, those included that it shares with others."""
    from stssl.config import Config

    texts = [plugin.__doc__ or ""]
    for config in plugin.Config.__mro__[: plugin.Config.__mro__.index(Config)]:
        text = config.__doc__ or ""
        if config is plugin.Config or "Attributes:" in text:
            texts.append(text)
    for text in filter(None, texts):
        out.print()
        for line in _reflow(inspect.cleandoc(text), min(out.width, 112) - 4):
            out.print(f"    {line}".rstrip(), markup=False)
    out.print()


def _reflow(text: str, width: int) -> list[str]:
    """Wrap a docstring anew: prose and listed settings flow, indented formulas keep their lines."""
    lines: list[str] = []
    for line in text.splitlines():
        last = lines[-1] if lines else ""
        indent, before = (len(some) - len(some.lstrip()) for some in (line, last))
        flows = (indent == before == 0 and not line.startswith(("-", "|"))) or indent > before > 0
        if line.strip() and last.strip() and flows:
            lines[-1] = f"{last} {line.strip()}"
        else:
            lines.append(line.rstrip())
    wrapped: list[str] = []
    for line in lines:
        hang = " " * (len(line) - len(line.lstrip()) + (4 if line.startswith(" ") else 0))
        wrapped += textwrap.wrap(line, width, subsequent_indent=hang, break_long_words=False) or [""]
    return wrapped
