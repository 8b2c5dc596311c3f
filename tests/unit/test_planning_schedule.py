"""The list schedule: cases worked out by hand, and what must hold for any jobs."""

from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wrpo_ray.planning.schedule import CannotPlaceError, Job, Placement, makespan_s, schedule


def times(placements: list[Placement]) -> dict[str, list[tuple[float, float]]]:
    """Return start and end of each replica by job."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for placement in placements:
        found[placement.job].append((placement.start_s, pytest.approx(placement.end_s)))
    return dict(found)


def test_longest_first_on_two_machines() -> None:
    # Graham's rule: 5 and 4 begin, 3 joins the 4, 3 joins the 5; 3 comes last on the first that is free (7).
    jobs = [Job(name, "H100", 1, work) for name, work in (("a", 3), ("b", 5), ("c", 3), ("d", 4), ("e", 3))]
    placed = schedule(jobs, {"H100": 2})
    assert times(placed) == {"d": [(0, 4)], "b": [(0, 5)], "a": [(4, 7)], "c": [(5, 8)], "e": [(7, 10)]}


def test_all_replicas_of_a_single_job() -> None:
    # 80 GPU-seconds on 4 x 2 GPUs, each after 3 s of start.
    placed = schedule([Job("a", "H100", 2, 80, max_replicas=8, start_s=3)], {"H100": 8})
    assert times(placed) == {"a": [(0, 13)] * 4}


def test_freed_accelerators_join_the_running_job() -> None:
    # b ends at 10; a has 90 left, of which the second replica, ready at 12, takes half of what is left then: 88 / 2.
    jobs = [Job("a", "H100", 1, 100, max_replicas=2), Job("b", "H100", 1, 10)]
    assert times(schedule(jobs, {"H100": 2})) == {"a": [(0, 55), (10, 55)], "b": [(0, 10)]}
    slow = [Job("a", "H100", 1, 98, max_replicas=2, start_s=2), Job("b", "H100", 1, 10)]
    assert times(schedule(slow, {"H100": 2})) == {"a": [(0, 56), (10, 56)], "b": [(0, 10)]}


@pytest.mark.parametrize(("work", "replicas"), [(17, 1), (22, 1), (24, 2)])
def test_no_replica_that_takes_longer_to_start_than_it_works(work: float, replicas: int) -> None:
    # b ends at 13, and a has done 8. A second replica would be ready at 18, when work - 13 are left for both: it works
    # for longer than 5 s if work is above 23.
    jobs = [Job("a", "H100", 1, work, max_replicas=2, start_s=5), Job("b", "H100", 1, 13)]
    assert len(times(schedule(jobs, {"H100": 2}))["a"]) == replicas


def test_narrow_jobs_fill_the_hole_beside_a_wide_one() -> None:
    jobs = [Job("wide", "H100", 4, 40), Job("long", "H100", 2, 30), Job("short", "H100", 2, 8)]
    # long (15 s) first, then wide does not fit: short fills the hole.
    assert times(schedule(jobs, {"H100": 4})) == {"long": [(0, 15)], "short": [(0, 4)], "wide": [(15, 25)]}


def test_scoring_overlaps_with_generation() -> None:
    jobs = [
        Job("draw-a", "H100", 1, 10), Job("draw-b", "H100", 1, 4), Job("score-a", "H100", 1, 2, after=("draw-a",)),
        Job("score-b", "H100", 1, 2, after=("draw-b",)), Job("train", "H100", 1, 6, 2, 2, after=("score-a", "score-b")),
    ]  # fmt: skip
    placed = times(schedule(jobs, {"H100": 2}))
    assert placed["score-b"] == [(4, 6)]
    assert placed["train"] == [(12, 15), (12, 15)]


def test_types_do_not_mix() -> None:
    jobs = [Job("a", "H100", 1, 10), Job("b", "A10G", 1, 10), Job("c", "A10G", 1, 5)]
    assert times(schedule(jobs, {"H100": 4, "A10G": 1})) == {"a": [(0, 10)], "b": [(0, 10)], "c": [(10, 15)]}


def test_fractions_fill_one_accelerator() -> None:
    jobs = [Job(f"job{number}", "H100", 0.1, 1.0) for number in range(10)]
    assert makespan_s(schedule(jobs, {"H100": 1})) == pytest.approx(10.0)


def test_refusals() -> None:
    with pytest.raises(CannotPlaceError, match="a needs 8 H100, the cluster has 4"):
        schedule([Job("a", "H100", 8, 1)], {"H100": 4})
    with pytest.raises(ValueError, match="wait for each other"):
        schedule([Job("a", "H100", 1, 1, after=("b",)), Job("b", "H100", 1, 1, after=("a",))], {"H100": 4})
    with pytest.raises(ValueError, match="waits for x"):
        schedule([Job("a", "H100", 1, 1, after=("x",))], {"H100": 4})
    with pytest.raises(ValueError, match="share a name"):
        schedule([Job("a", "H100", 1, 1), Job("a", "H100", 1, 1)], {"H100": 4})


GPUS = 16
WORK = st.floats(0.0, 1e4, allow_subnormal=False)


@st.composite
def jobs_of_any_kind(draw: st.DrawFn, with_order: bool = True) -> list[Job]:
    """Draw up to 12 jobs for 16 GPUs; each may wait for earlier ones."""
    jobs: list[Job] = []
    for number in range(draw(st.integers(1, 12))):
        gpus = draw(st.sampled_from([1, 2, 4, 8]))
        most = draw(st.integers(1, GPUS // gpus))
        fewest = draw(st.sampled_from([1, most])) if with_order else 1
        earlier = (
            st.sets(st.sampled_from([job.name for job in jobs]), max_size=3) if jobs and with_order else st.just(())
        )
        after = tuple(sorted(draw(earlier)))
        jobs.append(Job(f"j{number}", "H100", gpus, draw(WORK), most, fewest, draw(st.floats(0.0, 100.0)), after))
    return jobs


@settings(max_examples=150, deadline=None)
@given(jobs_of_any_kind())
def test_no_schedule_breaks_a_rule(jobs: list[Job]) -> None:
    placed = schedule(jobs, {"H100": GPUS})
    by_job: dict[str, list[Placement]] = defaultdict(list)
    for placement in placed:
        by_job[placement.job].append(placement)
    assert set(by_job) == {job.name for job in jobs}
    for job in jobs:
        own = by_job[job.name]
        assert job.min_replicas <= len(own) <= job.max_replicas
        start_s, end_s = min(each.start_s for each in own), own[0].end_s
        # All the work is done, by replicas that work once they have started, and none holds on longer than that.
        worked = sum(max(0.0, each.end_s - each.start_s - job.start_s) * each.gpus for each in own)
        assert worked == pytest.approx(job.gpu_seconds, rel=1e-6, abs=1e-3)
        assert all(each.end_s == end_s for each in own)
        assert all(start_s >= by_job[name][0].end_s for name in job.after)
    edges = sorted({edge for each in placed for edge in (each.start_s, each.end_s)})
    for begin, end in pairwise(edges):
        held = sum(each.gpus for each in placed if each.start_s <= begin and each.end_s >= end)
        assert held <= GPUS


@settings(max_examples=150, deadline=None)
@given(jobs_of_any_kind(with_order=False))
def test_makespan_is_bounded(jobs: list[Job]) -> None:
    """While a job of q GPUs waits, fewer than q are free; after the last has begun, the longest one alone counts.

    For jobs of one GPU this is work / GPUs + longest.
    """
    widest = max(job.gpus_per_replica for job in jobs)
    work = sum(job.gpu_seconds + job.start_s * job.gpus_per_replica * job.max_replicas for job in jobs)
    bound = work / (GPUS - widest + 1) + max(job.longest_s for job in jobs)
    assert makespan_s(schedule(jobs, {"H100": GPUS})) <= bound * (1 + 1e-9)


def test_the_papers_sources_leave_little_idle() -> None:
    """Ten sources of the paper's sizes on 64 GPUs: at most 10 % over work / GPUs, starts included in neither."""
    sizes = {4: (17.1, 10.2, 9.9), 8: (9.4, 9.4), 1: (9.1, 3.4, 3.0, 2.5), 2: (4.8,)}
    jobs = [
        Job(f"{gpus}-{number}", "H100", gpus, hours * 3600, max_replicas=64 // gpus)
        for gpus, works in sizes.items()
        for number, hours in enumerate(works)
    ]
    ideal = sum(job.gpu_seconds for job in jobs) / 64
    assert makespan_s(schedule(jobs, {"H100": 64})) <= 1.10 * ideal
