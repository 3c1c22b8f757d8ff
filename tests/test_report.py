"""The HTML report: what it says, that it is safe, the same every time, and works in a browser."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_case import make, profile_of, verify_of

from edgekit.artifact import Artifact
from edgekit.errors import InputError
from edgekit.report import render, write_report
from edgekit.report import text as txt
from edgekit.report.layers import columns, join
from edgekit.report.memory_map import arena_map, usages
from edgekit.report.roofline import plot, roof_of
from edgekit.targets.registry import get_target

_VOID = {"meta", "link", "br", "hr", "img", "input"}
EVIL = '"><script>document.documentElement.dataset.hacked="yes"</script><img src=x onerror=x>&'


class Page(HTMLParser):
    """Tags with attributes, the text of each element by id or class, and whether tags balance."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[tuple[str, str]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.unbalanced: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.stack.append((tag, dict(attrs).get("class") or ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.stack or self.stack[-1][0] != tag:
            self.unbalanced.append(tag)
        else:
            self.stack.pop()

    def handle_data(self, data: str) -> None:
        if data.strip():
            path = tuple(f"{t}.{c.split()[0]}" if c else t for t, c in self.stack)
            self.texts.append((path, " ".join(data.split())))

    def under(self, part: str) -> list[str]:
        return [t for path, t in self.texts if part in path]

    @property
    def text(self) -> str:
        shown = [t for path, t in self.texts if not {"style", "script"} & set(path)]
        return " ".join(shown)


@pytest.fixture(scope="module")
def art(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    made = make(tmp_path_factory.mktemp("report") / "artifact")
    made.store_result("profile", profile_of(made))
    made.store_result("verify", verify_of())
    return made


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make(tmp_path_factory.mktemp("report") / "bare")


def _with(art: Artifact, folder: Path, **results: Any) -> Artifact:
    """A copy with other stored results."""
    shutil.copytree(art.path, folder)
    copy = Artifact.open(folder)
    for name, document in results.items():
        copy.store_result(name, document)
    return copy


# -- content -----------------------------------------------------------------------------------


def test_says_what_was_deployed_with_a_kind_beside_every_figure(art: Artifact) -> None:
    page = Page(render(art))
    assert not page.unbalanced and not page.stack
    for said in ("small.tflite", "cortex-m4", "NUCLEO-L4R5ZI", "engine c", "virtual:cortex-m4",
                 "unicorn 2.1.4", "zig", "tflite-micro 0.0.1", "91.00 % on the device"):  # fmt: skip
        assert said in page.text, said
    cards = page.under("li.card")
    names = ["Latency", "Cycles", "Instructions", "Flash", "RAM", "Accuracy"]
    kinds = ["estimated", "estimated", "simulated", "linked", "simulated", "simulated"]
    assert [c for c in cards if c in names] == names
    badges = [t for path, t in page.texts if "li.card" in path and path[-1].startswith("span.kind")]
    assert badges == kinds
    total = art.result("profile")["total"]  # type: ignore[index]
    assert f"{total['instructions']:,}" in page.text and f"{total['cycles']:,}" in page.text


def test_every_layer_has_a_row_with_its_figures(art: Artifact) -> None:
    page = Page(render(art))
    plan = art.manifest["plan"]
    rows = [a for t, a in page.tags if t == "tr" and "data-i" in a]
    assert [r["data-i"] for r in rows] == [str(i) for i in range(len(plan))]
    for layer in art.result("profile")["layers"]:  # type: ignore[index]
        for value in (layer["name"], layer["op"], f"{layer['cycles']:,}",
                      f"{layer['instructions']:,}"):  # fmt: skip
            assert value in page.text
        if layer["macs"]:
            assert f"{layer['instructions'] / layer['macs']:.2f}" in page.text
    assert page.text.count("between the layers") == 1  # 9 cycles and 3 instructions are left over


def test_what_was_removed_and_quantized(art: Artifact) -> None:
    page = Page(render(art)).text
    simplified = art.manifest["recipe"]["simplify"]
    assert simplified["removed_channels"], "the test's network has dead channels"
    assert f"{simplified['macs_before']:,} → {simplified['macs']:,}" in page
    assert "minmax" in page and "small.npz:x" in page


def test_without_results_it_says_how_to_get_them(bare: Artifact) -> None:
    page = Page(render(bare))
    assert "Not profiled yet" in page.text and "edgekit profile DIR" in page.text
    assert "Not verified yet" in page.text and "edgekit verify DIR --data" in page.text
    assert "svg.roofline" not in {p for path, _ in page.texts for p in path}
    assert "svg.map" in {p for path, _ in page.texts for p in path}
    assert not [b for b in page.under("li.card") if b in ("estimated", "simulated", "measured")]


def test_wrong_bytes_come_first_and_name_the_layer(art: Artifact, tmp_path: Path) -> None:
    where = {"sample": 7, "layer": "conv_2d_1", "op": "CONV_2D", "tensor": "t", "mismatched": 3,
             "elements": 64, "index": [0, 1, 2, 3], "expected": -5, "got": 6}  # fmt: skip
    wrong = verify_of(mismatched_bytes=12, max_abs_diff=11, first_divergent_layer=where)
    page = Page(render(_with(art, tmp_path / "wrong", verify=wrong)))
    assert page.under("span.pill") == ["failed: 12 wrong bytes"]
    first = page.under("ul.remarks")[:2]
    assert first[0] == "Wrong bytes."
    assert "sample 7, layer conv_2d_1 (CONV_2D)" in first[1] and "6 instead of -5" in first[1]


@pytest.mark.parametrize(
    ("changes", "profile", "verify", "said"),
    [
        ({"memory": {"ram_available": 4096}}, {}, {}, "RAM is nearly full"),
        ({"memory": {"flash_available": 12000}}, {}, {}, "Flash is too small"),
        ({"variant": "conv2d_s8_direct_ref"}, {}, {}, "Portable kernels at work"),
        ({"target": "cortex-m55"}, {}, {}, "Helium is idle"),
        ({"floats": True}, {}, {}, "Floating point inside"),
        ({}, {"target": "cortex-m7"}, {}, "Profile of another target"),
        ({}, {}, {"accuracy": 0.9, "reference_accuracy": 0.9101}, "Accuracy dropped"),
        ({}, {}, {"samples": 3}, "Few samples"),
        ({}, {}, {"oracle": "edgekit reference 0.1.0"}, "Checked against our own reference"),
        ({}, {}, {}, "Cycles are estimated"),
        ({}, {}, {}, "One layer dominates"),
    ],
)
def test_remarks(
    tmp_path: Path, changes: Any, profile: dict[str, Any], verify: dict[str, Any], said: str
) -> None:
    made = make(tmp_path / "a", **changes)
    made.store_result("profile", profile_of(made, **profile))
    made.store_result("verify", verify_of(**verify))
    assert said in " ".join(Page(render(made)).under("ul.remarks"))


def test_the_worst_remarks_come_first(tmp_path: Path) -> None:
    made = make(tmp_path / "a", memory={"flash_available": 12000})
    made.store_result("profile", profile_of(made))
    made.store_result("verify", verify_of(samples=3, accuracy=0.5))
    levels = [a["class"] for t, a in Page(render(made)).tags
              if t == "li" and (a.get("class") or "").startswith("is-")]  # fmt: skip
    assert levels == ["is-bad", "is-warn", "is-note", "is-note", "is-note"]


def test_no_remark_without_a_reason(tmp_path: Path, art: Artifact) -> None:
    document = profile_of(art, kind="measured", kinds={}, total={"latency_ms": 2.0})
    for la in document["layers"]:
        la.update(time_ms=1.0, cycles=None, instructions=None)
    page = Page(render(_with(art, tmp_path / "calm", profile=document)))
    assert page.under("ul.remarks") == []
    assert "time, ms" in page.text and "MACs per nanosecond" in page.text
    assert page.under("li.card")[:4] == ["Latency", "2.00", "ms", "measured"]


# -- drawings ----------------------------------------------------------------------------------


def test_map_keeps_the_plan_s_proportions(art: Artifact) -> None:
    memory = art.manifest["memory"]
    drawing = arena_map(memory, art.graph)
    assert drawing is not None and len(drawing.boxes) == len(memory["buffers"])
    unit = (drawing.bottom - drawing.top) / memory["arena_bytes"]
    column = (drawing.right - drawing.left) / (len(art.graph.nodes) + 2)
    for box, b in zip(drawing.boxes, memory["buffers"], strict=True):
        assert box.h == pytest.approx(b["bytes"] * unit)
        assert box.w == pytest.approx((b["last"] - b["first"] + 1) * column)
        assert box.y + box.h == pytest.approx(drawing.bottom - b["offset"] * unit)
        assert drawing.left - 1e-6 <= box.x and box.x + box.w <= drawing.right + 1e-6
    for a, b in itertools.combinations(drawing.boxes, 2):
        apart = (a.x + a.w <= b.x + 1e-6 or b.x + b.w <= a.x + 1e-6
                 or a.y + a.h <= b.y + 1e-6 or b.y + b.h <= a.y + 1e-6)  # fmt: skip
        assert apart, (a.title, b.title)
    kinds = [b.kind for b in drawing.boxes]
    assert kinds.count("input") == kinds.count("output") == kinds.count("scratch") == 1


def test_usage_adds_up(art: Artifact) -> None:
    flash, ram = usages(art.manifest["memory"], {"flash_bytes": 12400, "stack_bytes": 100})
    assert [(p.name, p.bytes) for p in flash.parts] == [
        ("weights and biases", 3000),
        ("other constants", 400),
        ("code", 9000),
    ]
    assert sum(p.share for p in flash.parts) == pytest.approx(1)
    assert ram.used == art.manifest["memory"]["arena_bytes"] + 100
    assert ram.share == ram.used / (640 << 10)


@pytest.mark.parametrize(
    ("target", "peak"),
    [("cortex-m0plus", 0.5), ("cortex-m3", 0.5), ("cortex-m4", 2.0), ("cortex-m7", 2.0),
     ("cortex-m33", 2.0), ("cortex-m55", 8.0)],
)  # fmt: skip
def test_roofs(target: str, peak: float) -> None:
    roof = roof_of(get_target(target))
    assert roof is not None and roof.macs_per_cycle == peak


def test_roofline_points_lie_where_their_figures_are(art: Artifact) -> None:
    layers = join(art.manifest["plan"], art.result("profile"), art.graph)
    main = columns(layers, art.result("profile"))[0]
    assert (main.key, main.kind) == ("cycles", "estimated")
    drawing = plot(layers, main, art.target)
    assert drawing is not None and drawing.roof_path
    by_index = {p.index: p for p in drawing.points}
    assert set(by_index) == {la.index for la in layers if la.macs}
    drawn = [la for la in layers if la.macs]
    for a, b in itertools.combinations(drawn, 2):
        pa, pb = by_index[a.index], by_index[b.index]
        assert (pa.x < pb.x) == (a.macs * b.bytes_moved < b.macs * a.bytes_moved)  # type: ignore[operator]
        assert (pa.y > pb.y) == (a.macs * b.cycles < b.macs * a.cycles)  # type: ignore[operator]
    flat = float(drawing.roof_path.split()[-1].split(",")[1])
    assert all(p.y > flat for p in drawing.points), "half the peak at most in this profile"
    assert plot(layers, None, art.target) is None
    assert plot([la for la in layers if not la.macs], main, art.target) is None


# -- safety ------------------------------------------------------------------------------------


def test_loads_nothing(art: Artifact) -> None:
    text = render(art)
    page = Page(text)
    loading = {"src", "srcset", "href", "xlink:href", "data", "action", "poster", "background"}
    for tag, attrs in page.tags:
        used = {a: v for a, v in attrs.items() if a in loading}
        assert used in ({}, {"href": "#main"}), (tag, used)
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "img")
        assert not any(a.startswith("on") for a in attrs)
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    (policy,) = [a["content"] for t, a in page.tags if a.get("http-equiv")]
    assert policy is not None and policy.startswith("default-src 'none'")


def test_hostile_names_are_text(tmp_path: Path) -> None:
    made = make(tmp_path / "evil", rename=lambda n: f"{n}{EVIL}\u202e\x07")
    made.store_result("profile", profile_of(made, device=f"virtual:{EVIL}"))
    made.store_result("verify", verify_of(oracle=EVIL, data=EVIL, reference=EVIL))
    text = render(made)
    page = Page(text)
    assert not page.unbalanced
    assert [t for t, _ in page.tags if t in ("script", "img")] == ["script", "script"]
    assert "\u202e" not in text and "\x07" not in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None and not set("<>&") & set(data[1])
    assert json.loads(data[1])["verify"]["oracle"] == EVIL


def test_long_names_are_shortened_with_the_whole_in_the_title(tmp_path: Path) -> None:
    made = make(tmp_path / "long", rename=lambda n: n + "/abcdefghi" * 30)
    page = Page(render(made))
    name = made.manifest["plan"][0]["name"]
    assert len(name) > 300
    assert any(a.get("title") == name for t, a in page.tags if t == "span")
    words = " ".join(t for path, t in page.texts if not {"style", "script", "title"} & set(path))
    assert max(map(len, words.split())) < 130


@pytest.mark.parametrize(
    "document",
    [
        "[]",
        '"text"',
        "{}",
        '{"total": 3, "layers": {"a": 1}, "kinds": [], "memory": "x", "kind": null}',
        '{"total": {"cycles": NaN, "latency_ms": "fast"}, "layers": [1, {"name": 4, "cycles": "x"}]}',
        '{"total": {"cycles": true}, "layers": [{"name": "\\ud800", "cycles": -1}], "device": "\\ud800"}',
        '{"mismatched_bytes": "many", "first_divergent_layer": [1], "samples": null, "accuracy": {}}',
        '{"mismatched_bytes": 1, "first_divergent_layer": {"layer": 3, "index": 1}, "bytes": []}',
        "{",
    ],
)
def test_damaged_results_do_not_break_the_page(
    bare: Artifact, tmp_path: Path, document: str
) -> None:
    copy = _with(bare, tmp_path / "a")
    for name in ("profile", "verify"):
        (copy.path / f"{name}.json").write_text(document)
    page = write_report(copy, tmp_path / "report.html").read_text("utf-8")
    assert not Page(page).unbalanced


# -- files -------------------------------------------------------------------------------------


def test_same_bytes_wherever_the_artifact_lies(art: Artifact, tmp_path: Path) -> None:
    copy = _with(art, tmp_path / "elsewhere")
    a = write_report(art, tmp_path / "a.html")
    b = write_report(copy, tmp_path / "b.html")
    assert a.read_bytes() == b.read_bytes()
    assert str(tmp_path).encode() not in a.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html", "elsewhere"]


def test_output_that_cannot_be_written(art: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder; name a file"):
        write_report(art, tmp_path)
    with pytest.raises(InputError, match=r"cannot write '.*none/report.html'"):
        write_report(art, tmp_path / "none" / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_text_helpers() -> None:
    assert txt.short("a" * 40, 11) == "aaaaa…aaaaa" and txt.short("short") == "short"
    assert txt.clean("a\nb\u202e\ud800") == "a·b··"
    assert [txt.size(n) for n in (0, 1023, 1024, 98172, 2 << 20)] == [
        "0 B", "1023 B", "1 KiB", "95.9 KiB", "2 MiB"]  # fmt: skip
    assert [txt.duration(t) for t in (200.819, 2.5, 0.0123, 2310.0)] == [
        "200.8 ms", "2.50 ms", "12.3 µs", "2.31 s"]  # fmt: skip
    assert [txt.compact(n) for n in (999, 12_940_870, 1500)] == ["999", "12.9 M", "1.5 k"]
    assert txt.number(True) == txt.number(float("nan")) == txt.number("7") == txt.NONE
    assert txt.shape([1, 32, 32, 16]) == "32×32×16" and txt.shape(None) == txt.NONE


# -- in a browser ------------------------------------------------------------------------------


def _browse(page: Path, tmp: Path, fragment: str = "", width: int = 1300) -> str:
    """The document after its scripts ran, as Chromium serializes it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={tmp / 'chromium'}", f"--window-size={width},900"]  # fmt: skip
    done = subprocess.run(
        [chromium, *flags, "--dump-dom", page.as_uri() + fragment],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


def _root(dom: str) -> dict[str, str | None]:
    return next(a for t, a in Page(dom).tags if t == "html")


@pytest.mark.slow
def test_script_runs_and_sorts(art: Artifact, tmp_path: Path) -> None:
    page = write_report(art, tmp_path / "report.html")

    def order(fragment: str) -> list[int]:
        dom = _browse(page, tmp_path, fragment)
        assert _root(dom).get("data-ready") == "yes" and "data-errors" not in _root(dom)
        rows = [a for t, a in Page(dom).tags if t == "tr" and "data-i" in a]
        return [int(r["data-i"] or -1) for r in rows]

    layers = art.result("profile")["layers"]  # type: ignore[index]
    plain = list(range(len(layers)))
    assert order("") == plain
    assert order("#sort=-cycles") == sorted(plain, key=lambda i: -layers[i]["cycles"])
    assert order("#sort=macs") == sorted(plain, key=lambda i: layers[i]["macs"])
    assert order("#sort=op") == sorted(plain, key=lambda i: layers[i]["op"])
    assert order("#sort=nonsense") == plain


@pytest.mark.slow
@pytest.mark.parametrize("width", [1300, 500])
def test_hostile_and_long_names_in_the_browser(tmp_path: Path, width: int) -> None:
    made = make(tmp_path / "evil", rename=lambda n: f"{n}{EVIL}" + "x" * 300)
    made.store_result("profile", profile_of(made))
    made.store_result("verify", verify_of(oracle=EVIL * 3))
    text = render(made)
    page = tmp_path / "report.html"
    page.write_text(text)
    root = _root(_browse(page, tmp_path, width=width))
    assert root.get("data-ready") == "yes"
    assert not {"data-errors", "data-hacked"} & set(root)
    # Once more with a ruler, which the page's own security policy would not let in.
    ruler = ("<script>document.documentElement.dataset.over = "
             "document.documentElement.scrollWidth - window.innerWidth</script></body>")  # fmt: skip
    bare_policy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    page.write_text(bare_policy.replace("</body>", ruler))
    root = _root(_browse(page, tmp_path, width=width))
    assert int(root["data-over"] or 1) <= 0, "the page is wider than the window"
    assert "data-hacked" not in root, "harmless even without the policy"


@pytest.mark.slow
def test_policy_blocks_what_is_not_ours(art: Artifact, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    alien = '<script>document.documentElement.dataset.hacked = "yes"</script></body>'
    page.write_text(render(art).replace("</body>", alien))
    assert "data-hacked" not in _root(_browse(page, tmp_path))


@pytest.mark.slow
def test_report_of_a_real_artifact(tmp_path: Path) -> None:
    from edgekit import api

    root = Path(__file__).resolve().parent.parent
    done = api.deploy(
        root / "models" / "digits.tflite", "cortex-m4", f"{root}/models/digits.npz:calibration_x",
        tmp_path / "digits", val=f"{root}/models/digits.npz:val_x,val_y", samples=20,
    )  # fmt: skip
    text = Path(done["report"]).read_text("utf-8")
    page = Page(text)
    assert not page.unbalanced and str(tmp_path) not in text
    assert f"{done['profile']['total']['instructions']:,}" in page.text
    assert f"{done['profile']['memory']['flash_bytes']:,}" in page.text
    for layer in done["profile"]["layers"]:
        assert layer["name"] in page.text and f"{layer['cycles']:,}" in page.text
    drawing = arena_map(json.loads((tmp_path / "digits" / "manifest.json").read_text())["memory"],
                        api.open_artifact(tmp_path / "digits").graph)  # fmt: skip
    assert drawing is not None and drawing.boxes
    dom = _browse(Path(done["report"]), tmp_path, "#sort=-share")
    assert _root(dom).get("data-ready") == "yes" and "data-errors" not in _root(dom)
