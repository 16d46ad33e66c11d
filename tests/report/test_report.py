"""The report of a run: made of whatever there is, safe whatever stands in it, and what a browser makes of it."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from PIL import Image

from texdiff import cli
from texdiff.config import DataConfig, TrainingConfig
from texdiff.errors import InputError
from texdiff.render.viewer_mesh import Triangles, load_triangles, write_triangles
from texdiff.report import write_report
from texdiff.report.curves import charts, smooth
from texdiff.report.images import meshes
from texdiff.training.run import Run

NASTY = '</script><img src=x onerror="document.title=1"> "quote" & \'it\' \u2028 椅子'
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (250, 250, 250)}


def square() -> Triangles:
    """A square that faces +z, the atlas upright on it."""
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    return Triangles(
        corners=corners[faces],
        normals=np.broadcast_to(np.float32([0, 0, 1]), (2, 3, 3)).copy(),
        uv=((corners[:, :2] + 1) / 2)[faces],
        colours=np.full((2, 3, 3), 255, np.uint8),
        worn=2,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 60 steps, with samples of two steps."""
    folder = tmp_path_factory.mktemp("runs") / "a <b>run & more"
    folder.mkdir()
    (folder / "config.yaml").write_text(TrainingConfig(data=DataConfig(dataset=NASTY)).to_yaml(), "utf-8")
    rng = np.random.default_rng(0)
    lines: list[dict[str, Any]] = [
        {"step": s, "samples_seen": 4 * s, "validation_loss": 0.3 - s / 500, "error_outside": None} for s in (0, 30, 60)
    ]
    lines += [
        {"step": s, "samples_seen": 4 * s, "loss": float(rng.uniform(0.1, 0.3)), "error_inside": 0.2, "coverage": 0.4}
        | {"learning_rate": 1e-4, "grad_norm": 0.1, "images_per_second": 16.0, "error_outside": None}
        for s in range(1, 61)
    ]
    torn = '{"step": 61, "lo'
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)
    machine = {"processor": NASTY, "gpus": [], "packages": {"torch": "2"}}
    dataset = {"name": NASTY, "textures": 24, "coverage": 0.43, "licenses": {}}
    (folder / "about.json").write_text(json.dumps({"dataset": dataset, "machine": machine}))
    masks = {"dropped": 0.064, "void": 0.05, "worst": [[f"train/{NASTY}.png", 0.353]], "warning": NASTY}
    (folder / "masks.json").write_text(json.dumps(masks))
    atlas = np.zeros((64, 64, 3), np.uint8)
    atlas[:32, :32], atlas[:32, 32:], atlas[32:, :32], atlas[32:, 32:] = COLOURS.values()
    rows = []
    (folder / "samples/meshes").mkdir(parents=True)
    for number, prompt in enumerate(["four colours", NASTY]):
        name = f"{number:02d}"
        mesh = f"meshes/{name}.npz" if number == 0 else None
        rows.append({"prompt": prompt, "file": f"{name}-x.png", "mask": f"meshes/{name}.png", "mesh": mesh})
        Image.new("L", (64, 64), 255).save(folder / f"samples/meshes/{name}.png")
        for step in (0, 60):
            place = folder / f"samples/step-{step:08d}"
            place.mkdir(exist_ok=True)
            for kind in ("", "-dimmed", *(("-mesh",) if mesh else ())):
                shade = atlas if step else (atlas * 0.3).astype(np.uint8)
                Image.fromarray(shade).save(place / f"{name}-x{kind}.png")
    write_triangles(square(), folder / "samples/meshes/00.npz")
    (folder / "samples/samples.json").write_text(json.dumps(rows))
    Image.new("RGB", (300, 400), (90, 90, 90)).save(folder / "first_batch.png")
    return folder


def test_the_command_writes_one_file_that_loads_no_other(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"wrote {run / 'report.html'}\n"
    page = (run / "report.html").read_text("utf-8")
    assert page.count("<script") == page.count("</script>") == 4
    assert "<img src=x" not in page
    assert "<b>run" not in page
    assert "default-src 'none'" in page
    for outside in ("http://", "https://", 'src="/', "@import", "url("):
        assert outside not in page.replace("http://www.w3.org/2000/svg", "")
    assert "35.3%" in page
    before = (run / "report.html").read_bytes()
    write_report(run)
    assert (run / "report.html").read_bytes() == before


def test_a_report_of_whatever_there_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run"):
        write_report(tmp_path)
    (tmp_path / "config.yaml").write_text(TrainingConfig(data=DataConfig(dataset="x")).to_yaml(), "utf-8")
    assert "0 of 1000" in write_report(tmp_path).read_text("utf-8")
    # Damaged files are as good as none.
    (tmp_path / "samples/step-00000005").mkdir(parents=True)
    (tmp_path / "samples/step-odd").mkdir()
    for name in (
        "metrics.jsonl",
        "about.json",
        "first_batch.png",
        "samples/samples.json",
        "evaluation.json",
        "masks.json",
    ):
        (tmp_path / name).write_bytes(b"\xff\x00 no such thing {")
    assert "Curves" not in write_report(tmp_path).read_text("utf-8")
    rows = [{"prompt": "p", "file": "00-p.png", "mask": "meshes/00.png", "mesh": "meshes/00.npz"}]
    (tmp_path / "samples/samples.json").write_text(json.dumps(rows))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n[]\n{"step": 2, "validation_loss": 0.5}\n')
    assert "0.5000" in write_report(tmp_path).read_text("utf-8")


def test_an_evaluation_stands_in_the_report(run: Path) -> None:
    each = {"psnr": 21.5, "ssim": 0.5, "perceptual_distance": 0.25}
    figures = {"reconstruction": dict.fromkeys(("vae", "base", "trained"), each), "notes": [NASTY], "features": "x"}
    figures |= {"held_out": 4, "num_images": 16, "references": 28}
    figures |= dict.fromkeys(("atlases", "renders", "seams", "prompt_agreement"))
    (run / "evaluation.json").write_text(json.dumps(figures))
    page = write_report(run).read_text("utf-8")
    (run / "evaluation.json").unlink()
    assert "21.500" in page
    assert "<img src=x" not in page


def test_smoothing_is_a_weighted_mean_of_what_came_before() -> None:
    values = np.random.default_rng(0).uniform(0, 1, 40)
    smoothed = [y for _, y in smooth(list(enumerate(values)), window=10)]
    for n in range(1, 41):
        weights = 0.8 ** np.arange(n)[::-1]
        assert smoothed[n - 1] == pytest.approx((weights * values[:n]).sum() / weights.sum())


def test_meshes_reach_the_page_whole(run: Path, tmp_path: Path) -> None:
    (found,) = meshes(Run(run))
    kind = [("position", "<i2", 3), ("pad", "<i2"), ("normal", "i1", 3), ("pad2", "i1"), ("uv", "<f4", 2)]
    vertices = np.frombuffer(base64.b64decode(found["vertices"]), np.dtype([*kind, ("colour", "u1", 4)]))
    indices = np.frombuffer(base64.b64decode(found["indices"]), "<u4")
    assert len(vertices) == 4  # each once
    assert found["worn"] == len(indices) == 6
    np.testing.assert_allclose(vertices["position"][indices].reshape(2, 3, 3) / 32767, square().corners, atol=2e-5)
    np.testing.assert_array_equal(vertices["uv"][indices].reshape(2, 3, 2), square().uv)
    np.testing.assert_array_equal(vertices["normal"], [[0, 0, 127]] * 4)
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 no")
    with pytest.raises((OSError, ValueError)):
        load_triangles(tmp_path / "x.npz")


needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as one:
        yield one


@pytest.fixture
def page(run: Path, browser: Browser) -> Iterator[Path]:
    """The report; afterwards, that the browser had nothing to complain about."""
    browser.complaints.clear()
    yield write_report(run)
    # Reading the canvas, as only these tests do, waits for the GPU: a remark on speed.
    assert [said for said in browser.complaints if "GPU stall due to ReadPixels" not in said] == []


DRAWN = "Number(document.getElementById('viewer').dataset.drawn || 0)"


def viewer_pixels(browser: Browser) -> np.ndarray:
    uri = browser.do("document.getElementById('viewer').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGBA")).astype(int)


def middle_of(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """(x, y) of the middle of the pixels that look like this colour in any light."""
    shown = pixels[..., :3] / np.maximum(pixels[..., :3].max(axis=2, keepdims=True), 1)
    alike = (np.abs(shown - np.array(colour) / max(colour)).max(axis=2) < 0.12) & (pixels[..., 3] == 255)
    assert alike.sum() > 0.002 * alike.size, colour
    return np.argwhere(alike).mean(axis=0)[::-1]


@needs_chromium
def test_the_mesh_wears_the_atlas_upright_and_turns(page: Path, browser: Browser) -> None:
    browser.open(page)
    browser.wait(f"{DRAWN} > 0")
    before = viewer_pixels(browser)
    at = {name: middle_of(before, colour) for name, colour in COLOURS.items()}
    assert at["red"][0] < at["green"][0]
    assert at["blue"][0] < at["white"][0]
    assert at["red"][1] < at["blue"][1]
    assert at["green"][1] < at["white"][1]
    drawn = browser.do(DRAWN)
    browser.do("document.getElementById('viewer').scrollIntoView()")
    box = browser.do("(r => [r.x + r.width / 2, r.y + r.height / 2])(viewer.getBoundingClientRect())")
    for kind, moved in (("mousePressed", 0), ("mouseMoved", 60), ("mouseReleased", 60)):
        browser.send(
            "Input.dispatchMouseEvent", type=kind, x=box[0] + moved, y=box[1], button="left", buttons=1, clickCount=1
        )
    browser.wait(f"{DRAWN} > {drawn}")
    assert (viewer_pixels(browser) != before).any()
    # Turned to the right, the face is seen more from its left: the same picture as from that yaw.
    assert middle_of(viewer_pixels(browser), COLOURS["red"])[0] < at["red"][0]


@needs_chromium
def test_curves_samples_and_words_are_there(page: Path, browser: Browser) -> None:
    browser.open(page)
    browser.wait(f"{DRAWN} > 0")
    titles = browser.do("[...document.querySelectorAll('.chart h3')].map(h => h.textContent)")
    assert titles[:2] == ["Training error", "Held-out masked error"]
    assert len(titles) == 6
    assert browser.do("[...document.querySelectorAll('.chart svg')].every(s => s.querySelector('path'))")
    assert browser.do("document.querySelectorAll('.chart .base').length") == 1
    legends = browser.do("document.querySelectorAll('.legend')[1].innerText")
    assert "base 0.3" in legends
    prompts = browser.do("[...document.querySelectorAll('figcaption')].map(c => c.textContent)")
    assert prompts == ["four colours", NASTY]
    assert browser.do("document.querySelector('h1').textContent") == "a <b>run & more"
    # The slider: from the newest step to the base's own pictures.
    first = browser.do("document.querySelector('figure img').src")
    assert browser.do("which.textContent") == "step 60"
    browser.do("step.value = 0; step.dispatchEvent(new Event('input'))")
    assert browser.do("which.textContent") == "the base itself"
    assert browser.do("document.querySelector('figure img').src") != first
    assert browser.do("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert browser.do("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    # Pointing at a curve says its figures.
    browser.do("document.querySelector('.chart svg').dispatchEvent(new PointerEvent('pointermove', {bubbles: true}))")
    assert "step" in browser.do("document.querySelector('.tip').textContent")


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_can_be_read_by_day_and_night(page: Path, browser: Browser, dark: bool) -> None:
    browser.open(page, width=390, height=844, dark=dark)
    browser.wait(f"{DRAWN} > 0")
    assert browser.do("document.documentElement.scrollWidth") <= 390
    wide = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 391).length"
    assert browser.do(wide) == 0
    rgb = "(s => [s.color, s.backgroundColor].map(c => c.match(/[\\d.]+/g).slice(0, 3).map(Number)))"
    ink, paper = browser.do(f"{rgb}(getComputedStyle(document.body))")
    assert contrast(ink, paper) > 7
    soft = browser.do(f"{rgb}(getComputedStyle(document.querySelector('.soft')))[0]")
    assert contrast(soft, paper) > 4.5
    assert (np.mean(paper) < 60) == dark


def contrast(one: list[float], other: list[float]) -> float:
    """Contrast ratio of two sRGB colours (WCAG 2.2)."""

    def luminance(colour: list[float]) -> float:
        c = np.array(colour) / 255
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_void_on_the_surface_has_a_chart_of_its_own() -> None:
    void = [(0, 0.0), (30, 0.3), (60, 0.6)]
    lines = [{"step": s, "validation_loss": 0.3, "void_on_surface": v, "void_on_surface_real": 0.04} for s, v in void]
    held_out, chart = charts(lines)
    assert [curve["name"] for curve in held_out["curves"]] == ["loss"]
    assert (chart["title"], chart["base"]) == ("Void on the surface", 0.04)
    assert chart["curves"][0]["points"] == void
    assert [chart["title"] for chart in charts([{"step": 0, "validation_loss": 0.3}])] == ["Held-out masked error"]
