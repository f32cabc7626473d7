"""The figures of a run that is watched."""

from __future__ import annotations

from itertools import pairwise

from vigc.platform.dataset.tally import Tally
from vigc.platform.pipeline.progress import MAX_MOMENTS, Counter
from vigc.platform.planning import rate_of


def test_every_commit_has_its_moment_although_nobody_looked_between():
    counter = Counter(100, before=Tally(rows=40))
    for _ in range(12):
        counter.add(Tally(rows=1))
    now = counter.read()
    assert [done for _, done in now.moments] == list(range(41, 53))
    assert [at for at, _ in now.moments] == sorted(at for at, _ in now.moments)
    assert rate_of(now.moments).middle > 0


def test_a_long_run_keeps_moments_of_all_its_parts_evenly():
    counter = Counter(10**6, before=Tally())
    num_commits = 5 * MAX_MOMENTS + 3
    for _ in range(num_commits):
        counter.add(Tally(rows=2))
    moments = counter.read().moments
    assert MAX_MOMENTS // 2 <= len(moments) <= MAX_MOMENTS + 1
    assert (moments[0][1], moments[-1][1]) == (2, 2 * num_commits)
    steps = [b - a for (_, a), (_, b) in pairwise(moments)]
    assert set(steps[:-1]) == {16}
    assert 0 < steps[-1] <= 16
