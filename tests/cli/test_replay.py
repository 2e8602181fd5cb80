"""The page of a replay holds just what was recorded, loads nothing, and shows each step as it was."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import zlib
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sedd_cli.cli.view.denoising.replay import Replay, Strand, page, write_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell", "chromium-headless-shell")

#: Pieces that would end a script, open a comment, pass for markup or a placeholder, or get lost on the way.
NASTY = [
    "Once", " &<>\"'", "</script>", "<!--", "-->", "<script>throw 1</script>", "a\u2028b\u2029c", " 👩\u200d🚀",
    "", "\n\n", "   ", "{{data}}", "\\u003c\\", "]]>", "&amp;lt;", " שלום", "\tend",
]  # fmt: skip

#: Runs in the page before its own script: time passes only where a test advances it.
CLOCK = """<script>
let clock = 0, waiting = [];
performance.now = () => clock;
window.requestAnimationFrame = (frame) => waiting.push(frame);
function tick(ms) { clock += ms; const due = waiting; waiting = []; due.forEach((frame) => frame(clock)); }
</script>"""

#: Runs after it: what the page shows, and the ways a person moves it.
HANDS = """
const slide = (to) => { slider.value = to; slider.dispatchEvent(new Event("input", { bubbles: true })); };
const press = (key, shiftKey = false, at = document.body) =>
  at.dispatchEvent(new KeyboardEvent("keydown", { key, shiftKey, bubbles: true, cancelable: true }));
const seen = () => [...document.querySelectorAll(".strand")].map((strand) => ({
  spans: [...strand.querySelectorAll("[data-i]")].map((span) => [span.className, span.textContent]),
  counters: { ...strand.querySelector(".counters").dataset },
}));
const now = () => Number(slider.value);
"""


class Parsed(HTMLParser):
    """A page as tests read it: `data`, the elements with their attributes, and the text inside those asked for."""

    VOID = ("meta", "link", "input", "br", "path", "rect")

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.within: list[list[str]] = []
        self.texts: list[tuple[dict[str, str | None], list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.within.append([])
            self.texts.append((dict(attrs), self.within[-1]))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            text = self.within.pop()
            if self.within:
                self.within[-1] += text

    def handle_data(self, data):
        if self.within:
            self.within[-1].append(data)

    def text(self, name: str, value: str) -> list[str]:
        """The text of each element whose attribute has that value."""
        return ["".join(text) for attrs, text in self.texts if attrs.get(name) == value]

    @property
    def spans(self) -> list[list[str]]:
        """Class and text of each position."""
        return [[attrs["class"], "".join(text)] for attrs, text in self.texts if "data-i" in attrs]


@pytest.fixture(scope="module")
def replay() -> Replay:
    """Two sequences: nasty pieces filled between given ones, one of them taken back; noise that changes twice over."""
    length, steps = len(NASTY), 30
    given = [0, 1, 2, length - 1]
    start = [piece if i in given else None for i, piece in enumerate(NASTY)]
    hidden = [i for i in range(length) if i not in given]
    changes = [(2 + k // 2 * 3, i, NASTY[i]) for k, i in enumerate(hidden)]
    again = hidden[1]
    changes += [(12, again, None), (13, again, "other"), (22, again, None), (steps, again, NASTY[again])]
    changes.sort(key=lambda change: change[0])
    evaluations, seconds = [2 * s for s in range(1, steps + 1)], [0.25 * s for s in range(1, steps + 1)]
    filled = Strand("infill 1", start, given, changes, evaluations, seconds, "".join(NASTY))
    noise = [(s, i, f" {word}{s}") for s, i, word in [(1, 0, "a"), (4, 2, "<b>"), (4, 0, "c"), (20, 1, "d")]]
    turned = Strand("<i>sample</i> 2", [" x", " y", " z"], [], noise, evaluations[:20], seconds[:20], " c4 d20 <b>4")
    return Replay("sedd <infill> & more", {"model": "a & b", "<seed>": "0"}, [filled, turned])


def shown(strand: Strand, step: int) -> list[list[str]]:
    """Class and text of each position after a step, from the record alone."""
    pieces, fresh = list(strand.start), set()
    for at, i, piece in strand.changes:
        if at <= step:
            pieces[i] = piece
        if at == step:
            fresh.add(i)
    found = []
    for i, piece in enumerate(pieces):
        if piece is None:
            found.append(["mask lost" if i in fresh else "mask", ""])
        else:
            found.append(["new" if i in fresh else "given" if i in strand.given else "set", piece])
    return found


def long_replay(length: int = 1024, steps: int = 2000) -> Replay:
    rng = random.Random(0)
    order = rng.sample(range(length), length)
    when = sorted(rng.randint(1, steps) for _ in order)
    final = [f" {rng.choice(['token', 'of', 'längere', '文'])}" for _ in order]
    changes = [(s, i, final[i]) for s, i in zip(when, order, strict=True)]
    spent = [s / 30 for s in range(1, steps + 1)]
    strand = Strand("sample 1", [None] * length, [], changes, list(range(1, steps + 1)), spent, "".join(final))
    return Replay("sedd sample", {}, [strand])


def test_the_record_comes_back_from_the_page_whatever_it_spells(replay, tmp_path):
    write_page(tmp_path / "page.html", replay)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text == page(replay)
    (data,) = Parsed(text).text("id", "data")
    assert json.loads(data) == json.loads(json.dumps(asdict(replay)))
    raw = text.split('<script id="data" type="application/json">')[1].split("</script>")[0]
    assert raw == data
    assert raw.isascii()
    assert "<" not in raw


def test_the_texts_can_be_read_without_scripts(replay):
    parsed = Parsed(page(replay))
    assert parsed.text("class", "text") == [strand.text for strand in replay.strands]
    assert parsed.text("class", "facts")[0].split("\n") == ["", "modela & b", "<seed>0", ""]
    assert [tag for tag, _ in parsed.elements].count("script") == 2
    assert [tag for tag, _ in parsed.elements].count("i") == 3  # the legend's: a label brings none
    (controls,) = (attrs for tag, attrs in parsed.elements if "player" in (attrs.get("class") or ""))
    assert "hidden" in controls  # they would do nothing


def test_the_page_loads_nothing(replay):
    text = page(replay)
    parsed = Parsed(text)
    links = [
        v for _, attrs in parsed.elements for name, v in attrs.items() if name in ("src", "href", "srcset", "action")
    ]
    assert links == ["data:,"]
    assert not any(word in text for word in ("http://", "https://", "@import", "fetch(", "XMLHttpRequest", "import("))
    (policy,) = (attrs["content"] for _, attrs in parsed.elements if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'")


def test_the_page_of_a_long_sample_is_small():
    assert len(page(long_replay())) < 120_000
    assert len(page(Replay("", {}, []))) < 25_000


class Browser:
    """A headless Chromium that opens one page at a time."""

    def __init__(self, program: str, folder: Path):
        self.program, self.folder = program, folder

    def dump(self, text: str, fragment: str = "") -> Parsed:
        """The page after its scripts ran. They must have said nothing on the console."""
        return Parsed(self._open(text, fragment, "--dump-dom"))

    def probe(self, replay: Replay, script: str):
        """What a script at the end of the page finds (its `found`); it may call `tick`, `slide`, `press` and `seen`."""
        write = 'document.body.append(Object.assign(document.createElement("pre"), { id: "probe", textContent: %s }))'
        after = f"<script>{HANDS}{script};{write % 'JSON.stringify(found)'}</script></body>"
        text = page(replay).replace("</head>", CLOCK + "</head>", 1)
        opening, closing = text.rsplit("</body>", 1)
        (found,) = self.dump(opening + after + closing, "#step=0").text("id", "probe")
        return json.loads(found)

    def shoot(self, text: str, fragment: str) -> bytes:
        """A screenshot, PNG."""
        picture = self.folder / "shot.png"
        picture.unlink(missing_ok=True)
        self._open(text, fragment, f"--screenshot={picture}", "--window-size=800,600")
        return picture.read_bytes()

    def _open(self, text: str, fragment: str, *what: str) -> str:
        file = self.folder / "page.html"
        file.write_text(text, encoding="utf-8")
        # a test may run as root, where Chromium's sandbox cannot; the page is our own
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
        options += (f"--user-data-dir={self.folder / 'profile'}", "--enable-logging=stderr")
        run = subprocess.run(
            [self.program, *options, *what, file.as_uri() + fragment], capture_output=True, timeout=120, check=True
        )
        said = [line for line in run.stderr.decode("utf-8", "replace").splitlines() if "CONSOLE" in line]
        assert not said, said
        return run.stdout.decode("utf-8")


@pytest.fixture
def browser(tmp_path) -> Browser:
    program = os.environ.get("SEDD_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: SEDD_BROWSER is not set, and there is none of {', '.join(BROWSERS)}")
    return Browser(program, tmp_path)


@pytest.mark.parametrize("step", [0, 5, 13, 30])
def test_an_address_leads_to_a_step(browser, replay, step):
    parsed = browser.dump(page(replay), f"#step={step}")
    assert parsed.spans == [span for strand in replay.strands for span in shown(strand, step)]
    assert parsed.text("id", "where")[0].strip("\u2007") == f"step {step} / 30"
    assert parsed.text("class", "text")[0] == "".join(piece for _, piece in shown(replay.strands[0], step))


def test_an_address_past_the_end_leads_to_the_end(browser, replay):
    parsed = browser.dump(page(replay), "#step=999999")
    assert parsed.text("class", "text") == [strand.text for strand in replay.strands]


def test_the_console_is_heard(browser, replay):
    with pytest.raises(AssertionError, match="heard"):
        browser.dump(page(replay).replace("</body>", "<script>throw new Error('heard')</script></body>"))


def test_every_step_is_shown_as_it_was_whichever_way_one_comes(browser, replay):
    visits = [*range(31), *range(30, -1, -1), *random.Random(1).choices(range(31), k=40)]
    found = browser.probe(replay, f"const found = {visits}.map((to) => {{ slide(to); return seen(); }})")
    for step, views in zip(visits, found, strict=True):
        assert [view["spans"] for view in views] == [shown(strand, step) for strand in replay.strands], step
        for view, strand in zip(views, replay.strands, strict=True):
            at = min(step, len(strand.seconds))
            assert view["counters"]["evaluations"] == str(strand.evaluations[at - 1] if at else 0)
            assert view["counters"]["seconds"] == f"{strand.seconds[at - 1] if at else 0:.2f}"
        resolved = sum(kind.split()[0] != "mask" for kind, _ in shown(replay.strands[0], step))
        assert views[0]["counters"]["resolved"] == str(resolved)
        assert views[0]["counters"]["of"] == str(len(NASTY))
        assert views[1]["counters"]["changes"] == str(sum(at <= step for at, *_ in replay.strands[1].changes))


def test_a_long_sample_is_shown_as_it_was(browser):
    replay = long_replay()
    visits = [1999, 0, 2000, *random.Random(2).choices(range(2001), k=12)]
    found = browser.probe(replay, f"const found = {visits}.map((to) => {{ slide(to); return seen()[0].spans; }})")
    assert found == [shown(replay.strands[0], step) for step in visits]


def test_keys_move_by_a_step_by_a_change_and_to_either_end(browser, replay):
    changed = sorted({change[0] for strand in replay.strands for change in strand.changes})
    presses = [
        ("ArrowRight", False),
        ("ArrowRight", False),
        ("ArrowLeft", False),
        ("End", False),
        ("ArrowRight", False),
    ]
    presses += [("ArrowLeft", True), ("ArrowLeft", True), ("Home", False), ("ArrowLeft", False)]
    presses += [("ArrowRight", True)] * 4
    found = browser.probe(
        replay, f"const found = {json.dumps(presses)}.map(([key, shift]) => {{ press(key, shift); return now(); }})"
    )
    assert found == [1, 2, 1, 30, 30, changed[-2], changed[-3], 0, 0, *changed[:4]]


def test_a_list_and_a_button_keep_their_own_keys(browser, replay):
    script = """slide(7);
    const found = [press("ArrowLeft", false, speed), press(" ", false, play), press("ArrowLeft", false, play), now()]"""
    assert browser.probe(replay, script) == [True, True, False, 6]  # True: left to the browser


PLAY = """
const found = [[now(), play.getAttribute("aria-label"), seen()]];
while (waiting.length && found.length < 500) {
  tick(100);
  found.push([now(), play.getAttribute("aria-label"), seen()]);
}
"""


@pytest.mark.parametrize(("speed", "ticks"), [("1", 80), ("2", 40), ("0.5", 160)])
def test_playing_takes_its_time_and_lights_up_every_change(browser, replay, speed, ticks):
    found = browser.probe(replay, f"speed.value = '{speed}'; press(' ');{PLAY}")
    steps = [step for step, *_ in found]
    assert abs(len(found) - 1 - ticks) <= 1  # rounding of the last
    assert steps == sorted(steps)
    assert steps[0] == 0
    assert steps[-1] == 30
    assert [label for _, label, _ in found] == ["Pause"] * (len(found) - 1) + ["Play"]
    for k, strand in enumerate(replay.strands):
        lit = {
            i for *_, views in found for i, (kind, _) in enumerate(views[k]["spans"]) if kind in ("new", "mask lost")
        }
        assert lit == {i for _, i, _ in strand.changes}
        assert [text for _, text in found[-1][2][k]["spans"]] == [text for _, text in shown(strand, 30)]


def test_a_long_sample_plays_no_longer_and_skips_no_change(browser):
    script = """const found = [], lit = new Set();
    press(" ");
    while (waiting.length && found.length < 500) {
      tick(100);
      found.push(now());
      document.querySelectorAll(".new").forEach((span) => lit.add(span.dataset.i));
    }
    found.push(lit.size)"""
    *steps, lit = browser.probe(long_replay(), script)
    assert abs(len(steps) - 80) <= 1
    assert steps[-1] == 2000
    assert lit == 1024


def test_playing_stops_where_a_person_steps_in_and_begins_anew_at_the_end(browser, replay):
    script = """const found = [];
    press(" "); tick(100); tick(100); tick(100); slide(20); tick(100); found.push(now(), waiting.length);
    play.click(); tick(250); tick(250); press(" "); found.push(now() > 20); const at = now(); tick(250);
    found.push(now() - at, waiting.length);
    press("End"); play.click(); found.push(now(), waiting.length)"""
    assert browser.probe(replay, script) == [20, 0, True, 0, 0, 0, 1]


@pytest.mark.parametrize(
    "empty", [Replay("none", {}, []), Replay("idle", {}, [Strand("a", ["x"], [0], [], [], [], "x")])]
)
def test_a_replay_of_nothing_still_stands(browser, empty):
    parsed = browser.dump(page(empty))
    assert parsed.spans == [span for strand in empty.strands for span in shown(strand, 0)]


def test_a_picture_of_it_shows_something(browser, replay):
    first, last = (browser.shoot(page(replay), f"#step={step}") for step in (0, 30))
    assert first != last
    for picture in (first, last):
        assert picture.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(set(scanlines(picture))) > 64  # of a blank one little is left but zeros


def scanlines(picture: bytes) -> bytes:
    """The filtered lines of a PNG."""
    packed, at = b"", 8
    while at < len(picture):
        size, kind = struct.unpack(">I4s", picture[at : at + 8])
        packed += picture[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += size + 12
    return zlib.decompress(packed)
