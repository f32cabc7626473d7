"""POPE's questions, worked out by hand on a few images."""

from __future__ import annotations

import pytest
from records_for_quality import image

from vigc.platform.quality.pope import SPLITS, build_pope, question_about
from vigc.platform.records import ImageRecord, InputError
from vigc.platform.sources.base import Records
from vigc.platform.vocabulary import load_vocabulary, vocabulary_of

# dog and frisbee come together most often, car is the most frequent, and the first image has neither frisbee nor car.
THERE = [
    ["dog", "person"],
    ["dog", "frisbee", "tree"],
    ["dog", "frisbee"],
    ["frisbee", "dog", "car"],
    ["person", "bus", "car"],
    ["person", "bus", "car"],
    ["car"],
    ["car", "tree"],
]
CATEGORIES = ["dog", "person", "frisbee", "bus", "car", "tree"]


def source(there=THERE, captions=None):
    made = []
    for number, objects in enumerate(there):
        annotated = image(objects, (captions or {}).get(number))
        made.append(ImageRecord(f"im{number}.jpg", "/nowhere", 8, 8, annotated.objects, annotated.captions))
    return Records(made)


def probes(split, captions=None, there=THERE, **settings):
    vocabulary = vocabulary_of(CATEGORIES)
    made = build_pope(source(there, captions).tables(), vocabulary, **{"num_objects": 1, "num_images": 99} | settings)
    return made, made.probes[split]


def asked(found, image_id):
    return [(one.text.split()[3], one.label) for one in found if one.image == image_id]


def test_as_many_objects_are_there_as_are_not_and_yes_and_no_take_turns():
    for split in SPLITS:
        made, found = probes(split)
        assert made.num_images == len(THERE)
        assert [one.label for one in found] == ["yes", "no"] * len(THERE)
        assert [one.question_id for one in found] == list(range(1, 2 * len(THERE) + 1))
        for one in found:
            there = THERE[int(one.image.strip("im.jpg"))]
            assert (one.text.split()[3] in there) == (one.label == "yes")


def test_the_present_objects_are_the_same_in_all_splits():
    made, _ = probes("random")
    yes = [[one.text for one in found if one.label == "yes"] for found in made.probes.values()]
    assert yes[0] == yes[1] == yes[2]


def test_popular_asks_for_the_most_frequent_and_adversarial_for_the_usual_company():
    _, popular = probes("popular")
    _, adversarial = probes("adversarial")
    for found in (popular, adversarial):
        assert asked(found, "im6.jpg")[0] == ("car", "yes")
    assert asked(popular, "im0.jpg")[1] == ("car", "no")
    assert asked(popular, "im6.jpg")[1] == ("dog", "no")  # dog 4, person 3, ...
    expected = {"dog": "frisbee", "person": "car"}  # beside a dog 3 frisbees, beside a person 2 cars
    (present, _), (absent, _) = asked(adversarial, "im0.jpg")
    assert absent == expected[present]
    assert asked(adversarial, "im6.jpg")[1] == ("person", "no")  # 2 beside a car, as buses, but more in all
    assert asked(adversarial, "im6.jpg")[1] != asked(popular, "im6.jpg")[1]


def test_what_a_caption_names_is_not_asked_for_as_absent():
    _, without = probes("popular")
    _, found = probes("popular", captions={0: ["A taxi waits behind them."]})
    assert asked(without, "im0.jpg")[1] == ("car", "no")
    assert asked(found, "im0.jpg")[1] != ("car", "no")


def test_a_general_word_is_not_absent_where_a_special_kind_is_there():
    records = Records([ImageRecord("a.jpg", "/nowhere", 8, 8, image(["Pigeon", "Sneakers"]).objects)] * 1)
    made = build_pope(records.tables(), load_vocabulary("objects365"), num_objects=2, num_images=1)
    for found in made.probes.values():
        assert not {"wild", "other"} & {one.text.split()[3] for one in found if one.label == "no"}


def test_the_same_seed_gives_the_same_probes_whatever_the_order_of_the_images():
    vocabulary = vocabulary_of(CATEGORIES)
    settings = {"num_objects": 1, "num_images": 3, "seed": 4}
    records = list(source())
    one = build_pope(Records(records).tables(), vocabulary, **settings)
    again = build_pope(Records(reversed(records)).tables(), vocabulary, **settings)
    other = build_pope(Records(records).tables(), vocabulary, **settings | {"seed": 5})
    assert one == again
    assert one.probes != other.probes
    assert (one.num_images, one.num_eligible) == (3, 8)


def test_images_need_enough_objects_that_are_there_and_that_are_not():
    _, found = probes("random", num_objects=3)
    assert {one.image for one in found} == {"im1.jpg", "im3.jpg", "im4.jpg", "im5.jpg"}
    with pytest.raises(InputError, match="No image has 4 different objects"):
        probes("random", num_objects=4)
    with pytest.raises(InputError, match="and lacks as many"):
        probes("random", num_objects=4, there=[CATEGORIES])


def test_questions_read_as_in_the_published_files():
    assert question_about("umbrella") == "Is there an umbrella in the image?"
    assert question_about("dining table") == "Is there a dining table in the image?"
    assert question_about("monitor/tv") == "Is there a monitor in the image?"
