"""The report in a real browser, without a network."""

from __future__ import annotations

import json

import pytest
from chromium import CHROMIUM, launched, new_context
from measured_dataset import MORE, TRUE, UNTRUE, conversation, failed, row, sentence, store_of
from playwright.sync_api import expect
from waiting import wait_until

from vigc.platform.records import Kind
from vigc.platform.report import write_report
from vigc.platform.report.audit import audit, read_marks

EVIL = '<img src=x onerror="window.hacked = 1"><script>window.hacked = 2</script>'
INJECT = """() => {
  const script = document.createElement("script");
  script.textContent = "window.hacked = 3";
  document.body.append(script);
}"""
NAMELESS = """() => {
  const named = (one) => one.getAttribute("aria-label") || one.alt || one.textContent.trim() || one.labels?.length;
  return [...document.querySelectorAll("button, input, img, [role=img], [role=group]")].filter(
    (one) => !named(one)
  ).length;
}"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    worse = conversation(answer=f"{TRUE} {UNTRUE}", sentences=[sentence(TRUE, 1.4), sentence(UNTRUE, -0.9)])
    evil = conversation(Kind.CONVERSATION, question=EVIL, sentences=[sentence(EVIL)], vig_sentences=[])
    rows = [
        row(folder / "images", 1, [conversation(), conversation(Kind.CONVERSATION)]),
        row(folder / "images", 2, [worse]),
        row(folder / "images", 3, [evil]),
        failed(4),
    ]
    made = store_of(folder / "out", rows)
    write_report(made)
    return made


@pytest.fixture(scope="module")
def browser():
    yield from launched()


@pytest.fixture
def page(browser, store):
    """The report, opened offline; a fault of its script, or a request, fails the test."""
    context = new_context(browser, offline=True)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: faults.append(request.url) if not request.url.startswith(OWN) else None)
    page.goto(f"file://{store}/report.html")
    yield page
    context.close()
    assert faults == []


OWN = ("file://", "data:image/jpeg;base64,", "blob:")


def test_pictures_are_shown_with_their_boxes(page):
    worst = page.locator("#tab-worst .card").first
    expect(worst.locator("img")).to_be_visible()
    assert worst.locator("img").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [64, 48]
    expect(worst.locator("rect.box")).to_have_count(2)
    box, picture = worst.locator("rect.box").first.bounding_box(), worst.locator("img").bounding_box()
    assert box["width"] / picture["width"] == pytest.approx(20 / 64, abs=0.03)
    page.get_by_label("boxes").uncheck()
    expect(worst.locator("rect.box").first).to_be_hidden()


def test_absent_objects_are_struck_out_and_the_worst_is_first(page):
    worst = page.locator("#tab-worst .card").first
    expect(worst).to_have_attribute("data-image", "im2.png")
    struck = worst.locator(".vic del")
    expect(struck).to_have_text("dog")
    assert "line-through" in struck.evaluate("word => getComputedStyle(word).textDecorationLine")
    expect(worst.locator(".vic .sentence").nth(1).locator(".grounding")).to_have_text("-0.90")
    expect(worst.locator(".vic .sentence").nth(0).locator("del")).to_have_count(0)


def test_untrusted_texts_stay_texts(page):
    page.get_by_role("button", name="Random").click()
    expect(page.locator("#tab-random .conversation h4", has_text="onerror").first).to_be_visible()
    assert page.evaluate("window.hacked === undefined")
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 3'}))"
    )
    assert page.evaluate("window.hacked === undefined")  # the page's policy runs no script but the report's


def test_marks_are_made_with_mouse_and_keys_downloaded_kept_and_audited(page, store, tmp_path):
    expect(page.locator("#download")).to_be_disabled()
    worst = page.locator("#tab-worst .card").first
    first, second = worst.locator(".vic .sentence").all()
    second.get_by_role("button", name="Mark as wrong").click()
    expect(second).to_be_focused()
    expect(page.locator("#num-marks")).to_have_text("1 marked, 1 wrong")
    page.keyboard.press("k")
    expect(first).to_be_focused()
    page.keyboard.press("w")
    page.keyboard.press("r")
    expect(first.get_by_role("button", name="Mark as right")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#num-marks")).to_have_text("2 marked, 1 wrong")
    page.get_by_role("button", name="Random").click()  # the same row is shown there, marked as well
    again = page.locator('#tab-random .card[data-image="im2.png"] .vic .sentence')
    expect(again.nth(1)).to_have_attribute("data-marked", "wrong")
    again.nth(1).focus()
    page.keyboard.press("u")
    expect(page.locator("#num-marks")).to_have_text("1 marked, 0 wrong")
    page.keyboard.press("w")

    # A busy Chromium may open a page anew before it has kept what the old one stored.
    wait_until(lambda: page.reload() and page.locator("#num-marks").text_content() == "2 marked, 1 wrong", pause_s=1)
    with page.expect_download() as waiting:
        page.locator("#download").click()
    target = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(target)

    marks = json.loads(target.read_text())["marks"]
    assert [(one["image_id"], one["answer"], one["sentence"], one["text"], one["mark"]) for one in marks] == [
        ("im2.png", "final", 0, TRUE, "right"),
        ("im2.png", "final", 1, UNTRUE, "wrong"),
    ]
    found = audit(store, read_marks(str(target)))
    assert (found.every.num_marks, found.num_stale, found.every.objects.kappa) == (2, 0, 1.0)


def test_figures_tabs_and_themes(page):
    assert page.locator("#funnel .step .value").all_inner_texts() == ["4", "3", "4", "4"]
    page.get_by_role("button", name="Failed").click()
    expect(page.locator("#tab-failed")).to_contain_text("im4.png")
    expect(page.locator("#tab-worst")).to_be_hidden()
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.locator("#theme").click()


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for tab in ("Worst", "Random", "Rejected", "Failed"):
        page.get_by_role("button", name=tab).click()
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_every_control_and_picture_has_a_name(page):
    assert page.evaluate(NAMELESS) == 0
    assert page.locator("h1").count() == 1
    expect(page.locator("#tab-worst .sentence", has_text=MORE).first).to_have_attribute("tabindex", "0")
