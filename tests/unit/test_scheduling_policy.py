"""The policy on cases that are worked out by hand, and on random ones played to the end."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.schedule_simulation import play
from wrpo_ray.claims import NOTHING, Claim
from wrpo_ray.scheduling.nodes import Node, Room
from wrpo_ray.scheduling.policy import Running, Task, decide

FOUR, EIGHT = Node("four", 64, 4, "H100"), Node("eight", 64, 8, "H100")


def task(
    name: str, gpus: float, work_s: float, most: int = 1, start_s: float = 0.0, way_s: float | None = None
) -> Task:
    claim = Claim(1, gpus, most=most)
    return Task(name, claim, work_s, start_s, way_s if way_s is not None else start_s + work_s)


def running(one: Task, *places: str, left_s: float, started_s: float = 0.0) -> Running:
    where = [(place,) for place in places]
    return Running(one, left_s, where, [started_s] * len(where), one.claim.most)


def test_the_longest_way_to_the_end_begins_first() -> None:
    """By hand, 4 GPUs: 6 | 5 | 4 + 3 | 3 + 3, which is 7 s; in any other order the 6 or the 5 would end later."""
    lengths = {"six": 6.0, "five": 5.0, "four": 4.0, "three": 3.0, "drei": 3.0, "trois": 3.0}
    played = play([task(name, 1, work_s) for name, work_s in lengths.items()], {}, [FOUR])
    assert [played.begun_s(name) for name in lengths] == [0, 0, 0, 0, 3, 4]
    assert played.makespan_s == 7


def test_a_way_through_further_steps_counts_more_than_the_own_length() -> None:
    short = task("short", 4, 1, way_s=9)
    decided = decide([FOUR], [task("long", 4, 5), short], [], 0)
    assert [one.task.name for one in decided] == ["short"]


def test_what_is_left_makes_the_one_that_would_end_last_larger() -> None:
    """20 s and 8 s of work on 4 GPUs: 3 parts and 1, which end at 6.67 s and 8 s; then the short one takes all 4."""
    played = play([task("long", 1, 20, most=4), task("short", 1, 8, most=4)], {}, [FOUR])
    assert {name: played.parts(name) for name in ("long", "short")} == {"long": 3, "short": 4}
    assert played.makespan_s == pytest.approx(28 / 4)


def test_a_part_that_would_start_for_longer_than_it_works_is_not_begun() -> None:
    one = task("one", 1, 10, most=4, start_s=4)
    # Two parts would end at 4 + 5 = 9, after 2 x 4; three at 4 + 10 / 3 = 7.3, which is less than 2 x 4.
    assert [len(each.places) for each in decide([FOUR], [one], [], 0)] == [1, 1]


def test_freed_room_is_given_at_once_and_first_to_who_waits() -> None:
    first, waits = task("first", 2, 10, most=2), task("waits", 2, 1)
    decided = decide([FOUR], [waits], [running(first, "four", left_s=10)], 5)
    assert [(one.task.name, one.begins) for one in decided] == [("waits", True)]
    decided = decide([FOUR], [], [running(first, "four", left_s=10)], 5)
    assert [(one.task.name, one.begins) for one in decided] == [("first", False)]


def test_a_pool_whose_shards_run_out_does_not_grow_and_gives_room_back() -> None:
    ending = running(task("ending", 1, 100, most=4), "four", left_s=50)
    ending.useful = 1
    decided = decide([FOUR], [task("next", 2, 10)], [ending], 0)
    assert [one.task.name for one in decided] == ["next"]


def test_an_accelerator_type_is_obeyed() -> None:
    nodes = [Node("a", 8, 8, "A100"), Node("h", 8, 1, "H100")]
    wanted = Task("wanted", Claim(1, 1, "H100", most=2), 10)
    assert [one.places for one in decide(nodes, [wanted], [], 0)] == [(("h",),)]


def test_fractions_share_one_gpu_and_whole_ones_do_not() -> None:
    small = Claim(0.1, 0.4)
    room = Room.of([Node("n", 8, 2)])
    assert [room.place(small) for _ in range(5)] == [("n",)] * 4 + [None], "two on each GPU, 0.2 of each are left"
    room = Room.of([Node("n", 8, 2)], [(small, ("n",))])
    assert room.place(Claim(1, 2)) is None
    assert room.place(Claim(1, 1)) == ("n",)


def test_small_work_goes_where_the_holes_are_smallest() -> None:
    used = running(task("used", 1, 10), "b", left_s=10)
    nodes = [Node(name, 8, 8) for name in "abc"]
    assert [one.places for one in decide(nodes, [task("small", 1, 5)], [used], 0)] == [(("b",),)]
    # Work without a GPU leaves the nodes with GPUs alone.
    mixed = [Node("gpu", 8, 8), Node("cpu", 8)]
    assert decide(mixed, [Task("rule", Claim(0.5), 1)], [], 0)[0].places == (("cpu",),)


def test_an_engine_over_two_nodes_has_both() -> None:
    wide = Task("wide", Claim(2, 16, num_nodes=2), 10)
    nodes = [Node(name, 8, 8) for name in "abc"]
    (one,) = decide(nodes, [wide], [running(task("used", 1, 10), "b", left_s=10)], 0)
    assert one.places == (("a", "c"),)


def test_all_workers_of_a_training_begin_together() -> None:
    training = Task("sft", Claim(1, 1, fewest=4, most=4), 10)
    busy = running(task("busy", 1, 10), "four", left_s=10)
    assert decide([FOUR], [training], [busy], 0) == []
    assert [len(one.places) for one in decide([FOUR], [training], [], 0)] == [4]


def test_room_is_kept_for_an_engine_that_needs_a_whole_node() -> None:
    """The node will be empty at 10 s: what ends before may use it, what would end later may not."""
    old = running(task("old", 1, 10), "eight", left_s=10)
    whole = task("whole", 8, 20, way_s=100)
    decided = decide([EIGHT], [whole, task("quick", 1, 9), task("slow", 1, 11)], [old], 0)
    assert [one.task.name for one in decided] == ["quick"]
    # A running one may not grow into it either, unless it ends in time.
    grows = running(task("grows", 1, 40, most=4), "eight", left_s=40)
    assert {one.task.name for one in decide([EIGHT], [whole], [old, grows], 0)} == {"grows"}


def test_what_no_node_can_hold_is_begun_anywhere_one_at_a_time() -> None:
    """An autoscaler adds a node only for what waits in Ray."""
    wants = [Task(name, Claim(1, 8, most=2), 10, way_s=way) for name, way in (("first", 2.0), ("second", 1.0))]
    decided = decide([FOUR], wants, [], 0)
    assert [(one.task.name, one.places) for one in decided] == [("first", ((),))]
    assert decide([], wants, [], 0) == decided


def test_a_step_of_the_driver_needs_no_node() -> None:
    assert [one.places for one in decide([], [Task("fuse", NOTHING)], [], 0)] == [((),)]


@st.composite
def dags(draw: st.DrawFn) -> tuple[list[Task], dict[str, set[str]], list[Node]]:
    nodes = [
        Node(f"n{number}", draw(st.integers(1, 16)), draw(st.sampled_from([0, 1, 4, 8])))
        for number in range(draw(st.integers(1, 4)))
    ]
    nodes.append(Node("large", 64, 8))
    tasks, after = [], {}
    for number in range(draw(st.integers(1, 12))):
        name = f"t{number}"
        claim = draw(
            st.sampled_from([NOTHING, Claim(0.5), Claim(1, 0.3, most=3), Claim(2, 2, most=4), Claim(1, 8, most=2)])
            | st.builds(lambda count: Claim(1, 1, fewest=count, most=count), st.integers(1, 8))
        )
        work_s = draw(st.floats(0, 100)) if claim != NOTHING else 0.0
        tasks.append(Task(name, claim, work_s, draw(st.floats(0, 5)), draw(st.floats(0, 500))))
        after[name] = {f"t{each}" for each in range(number) if draw(st.booleans()) and draw(st.booleans())}
    return tasks, after, nodes


@settings(max_examples=150, deadline=None, derandomize=True)
@given(dags())
def test_every_step_runs_once_and_nothing_is_given_twice(
    case: tuple[list[Task], dict[str, set[str]], list[Node]],
) -> None:
    """`play` asserts capacity and that something always goes on."""
    tasks, after, nodes = case
    played = play(tasks, after, nodes)
    begun = [one.task.name for _, one in played.decisions if one.begins]
    assert sorted(begun) == sorted(each.name for each in tasks)
    assert all(
        played.begun_s(name) >= max((played.begun_s(one) for one in given), default=0) for name, given in after.items()
    )
    # Work conserving: never worse than all work on one part after the other.
    assert played.makespan_s <= sum(each.start_s + each.work_s for each in tasks) + 1e-6


@pytest.mark.parametrize(("num_gpus", "num_sources"), [(4, 8), (4, 32), (16, 16), (16, 32), (64, 32)])
def test_mixed_sources_fill_the_cluster(num_gpus: int, num_sources: int) -> None:
    """Sizes and lengths as of the paper's sources, in hours: start-up included, at most a tenth above work / GPUs."""
    shape = {1: 3.4, 2: 4.5, 4: 9.9, 8: 17.2}
    tasks, after, work = [], {}, 0.0
    for number in range(num_sources):
        gpus = min(num_gpus, list(shape)[number % 4])
        work += shape[gpus] + 1.4
        most = num_gpus // gpus
        drawn = task(f"sample{number}", gpus, shape[gpus] / gpus, most, 0.06, shape[gpus] / gpus + 1.5)
        scored = task(f"score{number}", 1, 1.4, num_gpus, 0.01, 1.4)
        tasks, after = [*tasks, drawn, scored], after | {scored.name: {drawn.name}}
    nodes = [Node(f"n{number}", 64, min(8, num_gpus)) for number in range(math.ceil(num_gpus / 8))]
    assert play(tasks, after, nodes).makespan_s <= 1.10 * work / num_gpus


def test_nobody_grows_into_what_a_step_needs_that_is_about_to_begin() -> None:
    slow = Task("slow", Claim(1.0, 1.0, most=4), work_s=1000.0, start_s=1.0, way_s=1000.0)
    scored = Task("score", Claim(1.0, 2.0), work_s=10.0, start_s=1.0, way_s=10.0)
    nodes, running = [Node("a", 8, 4)], [Running(slow, 1000.0, [("a",)], [0.0], 4)]
    assert sum(len(each.places) for each in decide(nodes, [], running, 10.0)) == 3
    assert sum(len(each.places) for each in decide(nodes, [], running, 10.0, [scored])) == 1
    assert [each.task.name for each in decide(nodes, [scored], running, 10.0)] == ["score", "slow"]
