"""The report shows what is in a search's files as text, whatever it is."""

from html.parser import HTMLParser
from pathlib import Path

from stssl.analysis import report
from tests.search.conftest import Script, make_config

BAD = '</script></td><script>alert(1)</script><img src=x onerror="alert(2)"><a href="javascript:alert(3)">%{x}'


class Tags(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.attributes |= {name for name, _ in attributes}


def tags(folder: Path, text: str) -> Tags:
    folder.mkdir()
    config = make_config(
        note=text, space={"model.pretrained": {"choice": [text, "b"]}, "optimizer.lr": {"uniform": [0.1, 1.0]}}
    )
    script = Script()
    for number, status in enumerate(("complete", "stop"), start=1):
        name = f"t{number:04d}"
        script.trial(name, model__pretrained=text, optimizer__lr=0.5).result(name, 10, 0.5, status)
    script.trial("t0003", model__pretrained=text, optimizer__lr=0.2).failed("t0003")
    script.events[-1]["reason"] = text
    manifest = {
        "stssl": text, "created": text, "commit": text, "packages": {text: text}, "data": {"name": text, "fingerprint": text},
    }  # fmt: skip
    report.write(folder, config, manifest, script.state)
    page = (folder / "report.html").read_text()
    assert (
        "\\u003cimg" not in page
    )  # as it would stand in what figures show under the mouse, which plotly reads as HTML
    parser = Tags()
    parser.feed(page[page.index("<body>") :])
    return parser


def test_hostile_text_is_text(tmp_path: Path) -> None:
    plain, hostile = tags(tmp_path / "plain", "plain"), tags(tmp_path / "hostile", BAD)
    assert hostile.found == plain.found and hostile.attributes == plain.attributes
