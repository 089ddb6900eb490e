"""The model card shows what is in the data as text, whatever it is."""

from pathlib import Path

import pytest

from stssl.data.store import ImageStore
from stssl.export import bundle
from stssl.export.card import escaped
from stssl.training.trainer import Trainer

HOSTILE = {
    "<script>alert(1)</script>": "&lt;script&gt;alert(1)&lt;/script&gt;",
    "[free](javascript:alert(1))": "[free\\](javascript:alert(1))",
    "![x][y]": "![x\\][y\\]",
    "a\n\n# New heading\r\n---": "a \\# New heading ---",
    "`rm -rf`": "\\`rm -rf\\`",
    "a|b": "a\\|b",
    "*bold* _it_ ~~no~~": "\\*bold\\* \\_it\\_ \\~\\~no\\~\\~",
    "&lt;b&gt;": "\\&lt;b\\&gt;",
    "\x1b[2J\u202e": "�[2J�",
    "$x$": "\\$x\\$",
    "- item": "\\- item",
    "3. item": "3\\. item",
    "\\": "\\\\",
}
PLAIN = [
    "SeaLake",
    "Transitional woodland/shrub",
    "a_b",
    "AT&T",
    "B8A",
    "x < 3".replace("<", "and"),
    "Nobody (2024)",
    "https://a.org/b_c?d=1",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text(text: str) -> None:
    assert escaped(text) == HOSTILE[text]


@pytest.mark.parametrize("text", PLAIN)
def test_ordinary_text_stays(text: str) -> None:
    assert escaped(text) == text


def test_a_card_of_hostile_data(make_trainer, whole_stores: dict[str, ImageStore], tmp_path: Path) -> None:
    old = whole_stores["single"]
    classes, bands = tuple(HOSTILE)[:3], tuple(HOSTILE)[3:6]
    store = ImageStore.from_arrays(old.images, old.labels, old.place, old.time, classes, "single", bands)
    store.card = store.card.model_copy(update={"name": "[x]", "attribution": "<b>\n# me", "licence": "`|`"})
    trainer: Trainer = make_trainer("single", {"framework": "plain"}, store)
    bundle.write(trainer, tmp_path / "b", "Found in <i>.", ["A fact\n# of [this](that)"])
    card = (tmp_path / "b" / "README.md").read_text()
    text = card.split("```")[0] + card.split("```")[2]
    assert "<" not in text and "](" not in text.replace("\\](", "") and "`" not in text.replace("\\`", "")
    assert [line for line in card.split("\n") if line.startswith("#") and not line.startswith("# x:")] == [
        "# vit_tiny_patch16_224 for [x\\]", "## What it is", "## How to use it", "## Limits", "## Data",
    ]  # fmt: skip
    assert "[x\\]: &lt;b&gt; \\# me. Licence: \\`\\|\\`." in card and "- A fact \\# of [this\\](that)" in card
