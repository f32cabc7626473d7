"""The page in a real browser, against the real service."""

from __future__ import annotations

import json
import re
import urllib.request
from itertools import pairwise

import pytest
from chromium import CHROMIUM, launched, new_context
from playwright.sync_api import expect

from vigc.platform.exports.examples import Example
from vigc.platform.exports.llava import record
from vigc.serve.errors import ApiError, overloaded
from vigc.serve.middleware import ApiKeys

WATCH = """() => {
  window.counts = [];
  const list = () => document.querySelectorAll(".card .vic .sentence").length;
  new MutationObserver(() => window.counts.at(-1) === list() || window.counts.push(list())).observe(
    document.getElementById("cards"), { childList: true, subtree: true }
  );
}"""
GIVE = """([name, type, bytes, event]) => {
  const files = new DataTransfer();
  files.items.add(new File([new Uint8Array(bytes)], name, { type }));
  const given = event === "drop"
    ? new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: files, bubbles: true, cancelable: true });
  document.body.dispatchEvent(given);
}"""
NAMELESS = """() => {
  const named = (one) => one.getAttribute("aria-label") || one.alt || one.textContent.trim() || one.labels?.length;
  return [...document.querySelectorAll("button, input, select, textarea, [role=group]")]
    .filter((one) => !named(one)).map((one) => one.outerHTML);
}"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def browser():
    yield from launched("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture
def page(browser, served):
    """The page, ready; a fault of its scripts fails the test, and so does anything that its policy forbids."""
    permissions = ["camera", "clipboard-read", "clipboard-write"]
    context = new_context(browser, permissions=permissions, reduced_motion="reduce")
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None)
    page.goto(served.url)
    expect(page.locator("#sample-list button").first).to_be_visible()
    yield page
    context.close()
    assert faults == []


def choose_kinds(page, *kinds):
    for chip in page.locator("#kinds .chip").all():
        if chip.locator("input").is_checked() != (chip.inner_text() in kinds):
            chip.click()


def ask(page, *kinds):
    choose_kinds(page, *kinds)
    page.get_by_role("button", name="Look at it").click()
    expect(page.get_by_role("button", name="Copy as JSON")).to_be_enabled()


def copied(page, what):
    """What the button puts on the clipboard, once it has said so."""
    button = page.locator(f"#copy-{what}")
    button.click()
    expect(button).to_have_text("Copied ✓")
    expect(page.get_by_role("status")).to_contain_text("copied to the clipboard")
    return json.loads(page.evaluate("navigator.clipboard.readText()"))


def sample(page, number):
    page.get_by_role("button", name=f"Sample {number}").click()


def texts(locator):
    return [" ".join(text.split()) for text in locator.all_inner_texts()]


def test_of_an_upload_the_page_says_that_the_embedded_model_is_wrong_and_of_a_sample_it_does_not(page, jpeg):
    caution = page.get_by_role("note")
    expect(caution).to_have_count(0)
    page.set_input_files("#file", files=[{"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": jpeg}])
    expect(caution).to_contain_text("what it says of any other image is fluent and wrong")
    expect(caution).to_contain_text("--model")
    sample(page, 1)
    expect(caution).to_have_count(0)


def test_sentences_of_an_upload_arrive_one_by_one_and_its_record_is_the_exporters(page, jpeg):
    page.set_input_files("#file", files=[{"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": jpeg}])
    expect(page.locator("#look img")).to_have_js_property("naturalWidth", 448)
    page.evaluate(WATCH)
    ask(page, "detail", "conversation")

    row = copied(page, "json")
    detail = row["conversations"][1]
    assert detail["kind"] == "detail"
    assert (row["image_id"], row["objects"], row["status"]) == ("mine.jpg", None, "ok")
    counts = page.evaluate("window.counts")
    assert len(counts) > 4
    assert max(after - before for before, after in pairwise(counts)) == 1
    for one in row["conversations"]:
        card = page.locator(f'.card[data-kind="{one["kind"]}"]')
        expect(card.locator(".question")).to_have_text(one["question"])
        assert texts(card.locator(".vic .text")) == [said["text"] for said in one["sentences"]]
        assert texts(card.locator(".vig .text")) == [said["text"] for said in one["vig_sentences"]]
        tinted = card.locator(".vic .sentence.borne, .vic .sentence.denied")
        expect(tinted).to_have_count(sum(said["grounding"] is not None for said in one["sentences"]))
        assert said_aloud(page, one)

    # A tint shows what the model believes, and not what the image shows.
    expect(page.locator("#legend")).to_contain_text("the model believes it")

    kept = [one for one in row["conversations"] if one["status"] == "kept"]
    expected = [record(Example(f"mine.jpg:{one['kind']}", row, [one])) for one in kept]
    assert copied(page, "llava") == expected


def said_aloud(page, conversation):
    """Whether each sentence was read out to those who listen."""
    heard = page.locator("#heard").inner_text()
    return all(said["text"] in heard for said in conversation["sentences"])


def test_what_vig_had_said_is_struck_out_where_vic_differs_and_boxes_light_up(page, served):
    sample(page, 4)
    expect(page.locator("rect.box")).to_have_count(9 - 1)
    ask(page, "detail")
    row = copied(page, "json")
    with urllib.request.urlopen(f"{served.url}/samples") as answer:
        known = json.load(answer)["samples"][3]
    assert row["objects"] == known["objects"]

    (detail,) = row["conversations"]
    vig, vic = ([one["text"] for one in detail[side]] for side in ("vig_sentences", "sentences"))
    items = page.locator("#cards .vig .sentence")
    struck = [item.locator("del").count() > 0 for item in items.all()]
    assert any(struck)
    assert all(text in vic for text, is_struck in zip(vig, struck, strict=True) if not is_struck)
    absent = {name for one in detail["vig_sentences"] for name in one["objects_absent"]}
    assert absent
    for name in absent:
        untrue = items.filter(has_text=f"not in the image: {name}").first
        expect(untrue.locator("mark.absent").first).to_have_text(re.compile(f"^{name}"))

    named = next(number for number, one in enumerate(detail["sentences"]) if one["objects_named"])
    page.locator("#cards .vic .sentence").first.focus()
    for _ in range(named):
        page.keyboard.press("ArrowDown")
    expect(page.locator("#cards .vic .sentence").nth(named)).to_be_focused()
    name = detail["sentences"][named]["objects_named"][0]
    expect(page.locator("rect.box.on")).to_have_count(sum(box["category"] == name for box in known["objects"]))
    page.get_by_label("boxes").uncheck()
    expect(page.locator("rect.box").first).to_be_hidden()


def test_sentences_are_compared_word_by_word(page):
    compare = "async ([name, ...sides]) => (await import('/page/difference.js'))[name](...sides)"
    before = ["A cup.", "There is a red dog.", "All is well."]
    after = ["There is a blue dog.", "A bird sings loudly.", "All is well."]
    assert page.evaluate(compare, ["pair", before, after]) == [[1, 0], [2, 2]]
    gone, come = page.evaluate(compare, ["changedWords", "There is a red dog.", "There is a blue, big dog!"])
    assert gone == [False, False, False, True, False]
    assert come == [False, False, False, True, True, False]


@pytest.mark.slow
def test_a_bad_file_is_named_and_what_was_there_stays(page, jpeg):
    sample(page, 1)
    ask(page, "knowledge")
    alert = page.get_by_role("alert")
    page.set_input_files("#file", files=[{"name": "notes.txt", "mimeType": "text/plain", "buffer": b"words"}])
    expect(alert).to_contain_text("notes.txt is no image (text/plain)")
    page.set_input_files("#file", files=[{"name": "cut.jpg", "mimeType": "image/jpeg", "buffer": jpeg[:300]}])
    page.get_by_role("button", name="Look at it").click()
    expect(alert).to_contain_text("The image cannot be used:")
    expect(page.locator(".card .vic .sentence").first).to_be_visible()
    page.evaluate(GIVE, ["big.png", "image/png", [0] * 9, "drop"])
    expect(alert).to_be_empty()
    page.evaluate("File.prototype.__defineGetter__('size', () => 21 * 2 ** 20)")
    page.evaluate(GIVE, ["big.png", "image/png", [0] * 9, "drop"])
    expect(alert).to_have_text("The image has 21.0 MiB; at most 20.0 MiB are taken.")


@pytest.mark.slow
def test_a_question_of_ones_own_is_asked_with_keys_alone_and_is_text(page):
    page.get_by_role("button", name="Sample 2").focus()
    page.keyboard.press("Enter")
    start = page.get_by_role("button", name="Look at it")
    expect(start).to_be_focused()
    assert start.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    choose_kinds(page, "conversation")
    evil = "<img src=x onerror='window.hacked = 1'> What is it?"
    page.get_by_label("Your question").focus()
    page.keyboard.type(evil)
    page.keyboard.press("Enter")
    expect(page.locator(".card .question")).to_have_text(evil)
    expect(page.locator(".card .vic .sentence").first).to_be_visible()
    expect(page.locator(".card .vig")).to_be_hidden()
    assert page.evaluate("window.hacked === undefined")


@pytest.mark.slow
def test_escape_cancels(page):
    page.route("**/v1/vigc", lambda route: None)  # a service that never answers
    sample(page, 1)
    page.get_by_role("button", name="Look at it").click()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/v1/vigc")):
        page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Look at it")).to_be_enabled()
    expect(page.locator("#heard")).to_contain_text("Cancelled.")
    expect(page.get_by_role("alert")).to_be_empty()


def fail(route, error):
    route.fulfill(status=error.status_code, json=error.content, headers=error.headers or {})


@pytest.mark.slow
def test_a_busy_service_is_asked_again_when_it_said(page):
    page.route("**/v1/vigc", lambda route: fail(route, overloaded()), times=1)
    sample(page, 1)
    choose_kinds(page, "knowledge")
    page.get_by_role("button", name="Look at it").click()
    expect(page.get_by_role("alert")).to_contain_text("The service is busy. Trying again in")
    expect(page.get_by_role("button", name="Copy as JSON")).to_be_enabled()
    expect(page.get_by_role("alert")).to_be_empty()


@pytest.mark.slow
def test_a_key_is_asked_for_and_kept_for_this_visit(page):
    keys = ApiKeys("right")

    def guard(route):
        try:
            keys.check(route.request.headers.get("authorization", ""))
        except ApiError as error:
            fail(route, error)
        else:
            route.continue_()

    page.route("**/v1/**", guard)
    page.reload()
    field = page.get_by_label("Key of this service")
    expect(field).to_be_focused()
    field.fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The key is not known here.")
    page.get_by_label("Key of this service").fill("right")
    page.keyboard.press("Enter")
    expect(page.locator("#kinds input").first).to_be_attached()
    assert page.evaluate("localStorage.length") == 0
    page.reload()
    expect(page.locator("#sample-list button").first).to_be_visible()
    expect(page.get_by_role("alert")).to_be_empty()


@pytest.mark.slow
def test_images_are_dropped_pasted_and_taken(page, jpeg):
    name = page.locator("#name")
    page.evaluate(GIVE, ["dropped.jpg", "image/jpeg", list(jpeg), "drop"])
    expect(name).to_have_text("dropped.jpg")
    page.evaluate(GIVE, ["pasted.jpg", "image/jpeg", list(jpeg), "paste"])
    expect(name).to_have_text("pasted.jpg")
    page.get_by_text("Another image").click()
    page.get_by_label("Use the camera").click()
    expect(page.locator("#video")).to_have_js_property("readyState", 4)
    page.get_by_role("button", name="Take the photo").click()
    expect(name).to_have_text("camera.jpg")
    expect(page.locator("#look img")).not_to_have_js_property("naturalWidth", 448)
    expect(page.locator("#camera-dialog")).to_be_hidden()


@pytest.mark.slow
def test_an_address_that_may_not_be_fetched_is_refused_in_words(page):
    page.get_by_label("Address of an image").fill("https://localhost/one.jpg")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Look at it").click()
    expect(page.get_by_role("alert")).to_have_text("The address does not lead to the public internet.")
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#welcome")).to_be_visible()


@pytest.mark.slow
def test_an_earlier_image_of_this_visit_comes_back(page):
    sample(page, 1)
    ask(page, "knowledge")
    first = page.locator(".card .question").inner_text()
    expect(page.locator("#history")).to_be_hidden()
    sample(page, 2)
    ask(page, "detail")
    expect(page.get_by_role("navigation", name="This visit").get_by_role("button")).to_have_count(2)
    page.get_by_role("button", name="Visit 1").click()
    expect(page.locator(".card .question")).to_have_text(first)
    expect(page.locator("#name")).to_have_text("scene-0.jpg")
    expect(page.get_by_role("button", name="Visit 1")).to_be_focused()
    expect(page.get_by_role("button", name="Visit 1")).to_have_attribute("aria-current", "true")


@pytest.mark.slow
def test_nothing_sticks_out_everything_has_a_name_and_there_are_two_themes(page):
    sample(page, 4)
    ask(page, "detail")
    assert page.evaluate(NAMELESS) == []
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == width
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
