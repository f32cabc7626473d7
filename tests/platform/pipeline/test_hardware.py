"""The rule by which a device is chosen. `tests/jobs/test_hardware.py` has it on a cluster."""

from __future__ import annotations

import pytest

from vigc.platform.pipeline import hardware
from vigc.platform.pipeline.hardware import Hardware, _Gpus, choose_hardware
from vigc.platform.records import ConfigError

HERE, CLUSTER = "this machine", "the cluster"


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch):
    def put(*there: object) -> None:
        monkeypatch.setattr(hardware, "_gpus_there", lambda: _Gpus(*there))

    return put


@pytest.mark.parametrize(
    ("gpus", "asked", "chosen"),
    [
        ((0, HERE), ("auto",), Hardware("cpu", "float32", 0, "this machine has no GPU")),
        ((2, HERE), ("auto",), Hardware("cuda", "bfloat16", 1, "this machine has 2 GPUs")),
        ((1, CLUSTER), ("cuda:0", "float16"), Hardware("cuda:0", "float16", 1, "the cluster has 1 GPU")),
        ((0, HERE), ("auto", "auto", 0.25), Hardware("cuda", "bfloat16", 0.25, "as asked for")),
        ((1, CLUSTER), ("auto", "float32", 0), Hardware("cpu", "float32", 0, "as asked for")),
        ((1, CLUSTER), ("cpu",), Hardware("cpu", "float32", 0, "as asked for")),
        ((0, HERE), ("mps",), Hardware("mps", "float32", 0, "as asked for")),
    ],
)
def test_a_gpu_is_taken_where_there_is_one_unless_told_otherwise(there, gpus, asked, chosen):
    there(*gpus)
    assert choose_hardware(*asked) == chosen


@pytest.mark.parametrize("place", [HERE, CLUSTER])
def test_a_gpu_that_will_never_come_is_refused(there, place):
    there(0, place)
    with pytest.raises(ConfigError, match=f"--device cuda: {place} has no GPU. Use --device cpu"):
        choose_hardware("cuda")


def test_a_cluster_that_grows_is_waited_for_where_a_gpu_is_asked_for_and_not_where_none_is(there):
    there(0, CLUSTER, True)
    assert choose_hardware("cuda").gpus == 1
    assert str(choose_hardware()) == "cpu (the cluster has no GPU now; with --device cuda the run waits for one)"


@pytest.mark.parametrize(
    ("asked", "told"), [(("gpu",), "--device gpu: .*auto, cpu or cuda"), (("cpu", "int8"), "--dtype")]
)
def test_an_unknown_name_is_refused(asked, told):
    with pytest.raises(ConfigError, match=told):
        choose_hardware(*asked)


@pytest.mark.parametrize(("visible", "num"), [(None, 2), ("", 0), ("1", 1), ("-1", 0), ("0,1", 2)])
def test_a_job_with_a_ray_of_its_own_counts_the_gpus_that_it_may_see(visible, num, monkeypatch, tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    monkeypatch.setattr(hardware, "Path", lambda folder: tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hardware.num_gpus() == num
