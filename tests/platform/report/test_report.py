from __future__ import annotations

import re
from dataclasses import replace

import pytest
from datasets import finished
from measured_dataset import MORE, TRUE, UNTRUE, conversation, failed, measured_dataset, row, sentence, store_of

from vigc.platform.dataset.store import Store
from vigc.platform.quality.mentions import ObjectFinder
from vigc.platform.records import InputError, StoreError, Verdict
from vigc.platform.report import Sizes, write_report
from vigc.platform.report.audit import Mark, agreement, audit, read_marks
from vigc.platform.report.gallery import Piece, pieces_with
from vigc.platform.report.gather import gather
from vigc.platform.report.summary import summarise
from vigc.platform.vocabulary import load_vocabulary


def page_of(store, **sizes):
    write_report(store, sizes=Sizes(**sizes))
    return store.folder.read_text("report.html")


def test_all_rows_are_counted_and_the_worst_come_first(tmp_path):
    images = tmp_path / "images"
    worse = conversation(answer=UNTRUE, sentences=[sentence(UNTRUE, 0.9)])
    doubtful = conversation(sentences=[sentence(TRUE, -3.0)])
    rejected = replace(worse, status=Verdict.REJECTED, reasons=["short"])
    rows = [row(images, 0, [conversation()]), row(images, 1, [doubtful]), row(images, 2, [worse]), failed(3)]
    store = store_of(tmp_path / "out", [*rows, row(images, 4, [rejected])])

    found = gather(store, Sizes())

    assert [one["image_id"] for one in found.worst] == ["im2.png", "im1.png", "im0.png"]
    assert sorted(one["image_id"] for one in found.random) == ["im0.png", "im1.png", "im2.png"]
    assert [one["image_id"] for one in found.rejected] == ["im4.png"]
    assert [one["image_id"] for one in found.failed] == ["im3.png"]
    assert (found.num_questions, found.openings) == (3, {"what is": 3})
    assert found.present == {"cat": 4, "chair": 4}
    assert found.named == {"cat": 2, "chair": 2, "dog": 1}
    assert (found.absent["vig"], found.absent["vic"]) == ({"dog": 3}, {"dog": 1})
    assert (found.words["vig"].sum(), found.words["vic"].sum()) == (3, 3)


def test_the_sample_is_the_same_each_time_and_no_larger_than_asked(tmp_path):
    images = tmp_path / "images"
    store = store_of(tmp_path / "out", [row(images, number, [conversation()]) for number in range(9)])
    samples = [[one["image_id"] for one in gather(store, Sizes(num_random=4, num_worst=2)).random] for _ in range(2)]
    assert samples[0] == samples[1]
    assert len(set(samples[0])) == 4
    assert page_of(store, num_worst=2, num_random=4).count("<article") == 6


def test_the_page_holds_everything_and_asks_nobody(tmp_path):
    page = page_of(measured_dataset(tmp_path))
    assert re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*\"", page) == []
    assert "url(" not in page
    assert page.count('src="data:image/jpeg;base64,') == 5  # two images among the worst, the random, and one rejected
    assert "missing: no file at /nowhere/im4.png" in page


def test_what_filters_decided_and_which_images_are_like_evaluation_images_is_there(tmp_path):
    store = measured_dataset(tmp_path)
    filter_ = {"name": "too_short", "rule": "fewer than 3 words", "judged": 5, "rejected": 1, "alone": 1}
    match = {"image_id": "im1.png", "like": "val2014/7.jpg", "distance": 2}
    evaluation = {"source": "folder val2014", "num_images": 9, "num_unreadable": 0, "matches": [match]}
    account = {"filters": [filter_], "judged": 5, "kept": 4, "rejected": 1, "made_since": 0}
    summary = summarise(store) | {"verdicts": [account | {"evaluation_images": evaluation}, {"by": "someone"}]}
    write_report(store, summary)
    page = " ".join(store.folder.read_text("report.html").split())
    assert "4 of 5 conversations kept" in page
    assert 'too short <span class="muted rule">fewer than 3 words' in page
    assert "1 images are like one of the 9 evaluation images in folder val2014" in page
    assert "<td>im1.png</td><td>val2014/7.jpg</td>" in page


def test_texts_of_models_are_text(tmp_path):
    evil = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">'
    spoken = conversation(question=evil, sentences=[sentence(evil)], vig_sentences=[sentence(evil)])
    store = store_of(tmp_path / "out", [row(tmp_path / "images", 1, [spoken])])
    page = page_of(store)
    assert "<script>window" not in page
    assert "<img src=x" not in page
    assert page.count("&lt;/script&gt;&lt;script&gt;window.hacked") == 3  # the question and both answers


def test_a_data_set_without_annotations_and_one_where_all_failed_have_a_page(tmp_path):
    page = page_of(finished(tmp_path / "plain"))
    assert "Not measured" in page
    assert "The first pixel is" in page
    page = page_of(finished(tmp_path / "failed", num=2, failed=2))
    assert "truncated" in page
    with pytest.raises(StoreError, match="holds no data set"):
        write_report(Store(tmp_path / "nothing"))


def test_absent_objects_are_struck_out_where_they_are_named():
    cut = pieces_with([ObjectFinder(load_vocabulary("coco"))])
    assert cut("A dog, a cat and two puppies.", ["dog"]) == [
        Piece("A ", None),
        Piece("dog", "dog"),
        Piece(", a cat and two ", None),
        Piece("puppies", "dog"),
        Piece(".", None),
    ]
    assert cut("A cat.", ["dog"]) == [Piece("A cat.", None)]
    assert pieces_with([])("A dog.", ["dog"]) == [Piece("A dog.", None)]


def test_agreement_by_hand():
    """20 sentences: 4 wrong by both, 2 by the check alone, 1 by the human alone, 13 right by both.

    Observed 17/20; by chance (6 x 5 + 14 x 15) / 400 = 0.6; kappa (0.85 - 0.6) / 0.4.
    """
    pairs = [(True, True)] * 4 + [(False, True)] * 2 + [(True, False)] + [(False, False)] * 13
    found = agreement(pairs)
    assert (found.num, found.both_wrong, found.only_check, found.only_human, found.both_right) == (20, 4, 2, 1, 13)
    assert (found.precision, found.recall) == (pytest.approx(4 / 6), pytest.approx(4 / 5))
    assert found.kappa == pytest.approx(0.625)


def test_where_there_is_nothing_to_divide_by_there_is_no_figure():
    assert agreement([]).kappa is None
    everything_right = agreement([(False, False)] * 3)
    assert (everything_right.precision, everything_right.recall, everything_right.kappa) == (None, None, None)


def mark(text, number, is_wrong, *, answer="vig", is_random=False):
    return Mark("im1.png", "detail", answer, number, text, is_wrong, is_random)


def test_the_audit_joins_marks_with_what_was_measured(tmp_path):
    marks = [
        mark(TRUE, 0, False, is_random=True),
        mark(UNTRUE, 1, True),
        mark(MORE, 2, True),  # a wrong colour, which no object tells
        mark(TRUE, 0, False, answer="final", is_random=True),
        mark("Something else.", 1, True),  # the answer has been made anew since
    ]
    found = audit(measured_dataset(tmp_path), marks, grounding_below=0.5)
    assert (found.every.num_marks, found.every.num_wrong, found.num_stale) == (4, 2, 1)
    assert (found.every.objects.precision, found.every.objects.recall) == (1.0, 0.5)
    assert (found.every.grounding.precision, found.every.grounding.recall) == (1.0, 1.0)
    assert found.every.grounding_auroc == 1.0
    assert (found.random.num_marks, found.random.num_wrong, found.random.grounding_auroc) == (2, 0, None)
    with pytest.raises(InputError, match="another data set"):
        audit(measured_dataset(tmp_path / "other"), [replace(marks[0], image_id="x.png")])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "vigc marks 0", "marks": []}'])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "marks.json").write_text(content)
    with pytest.raises(InputError, match="marks"):
        read_marks(str(tmp_path / "marks.json"))
    with pytest.raises(InputError, match="no such file"):
        read_marks(str(tmp_path / "none.json"))
