import re
from itertools import pairwise

import pytest

from conversations import MELD, made_up
from mmerc.conversation import Conversation, Utterance
from mmerc.report.answers import count_answers, voices
from mmerc.report.timeline import LANES, clock, draw, spans_ms
from mmerc.report.turns import percent, points

ORDER = tuple(range(7))


def numbers(path: str) -> list[int]:
    return [int(x) for x in re.findall(r"-?\d+", path)]


@pytest.mark.parametrize("turns", [1, 2, 7, 260])
@pytest.mark.parametrize("timed", [True, False])
def test_everything_lies_inside_the_drawing(turns: int, timed: bool) -> None:
    timeline = draw(made_up(turns, timed=timed).prediction, MELD, ORDER)
    assert timeline.by_time == timed
    assert [bar.turn for bar in timeline.bars] == list(range(turns))
    for bar in timeline.bars:
        assert 0 <= bar.x < bar.x + bar.width <= 100.001
    for area in timeline.areas:
        found = numbers(area.path)
        assert 0 <= min(found[::2]) <= max(found[::2]) <= 4000
        assert 0 <= min(found[1::2]) <= max(found[1::2]) <= 400
        assert all(0 <= x <= 100 and 0 <= y <= 100 for x, y in area.marks)
    assert all(0 <= tick.x <= 100 for tick in timeline.ticks)
    assert timeline.ticks


def test_areas_follow_one_another_without_gaps() -> None:
    areas = draw(made_up(5).prediction, MELD, ORDER).areas
    for below, above in pairwise(areas):
        top = numbers(below.path.split("L4000", 1)[0])
        assert top[:2] == numbers(above.path)[-2:]
    assert numbers(areas[0].path)[-1] == 400
    assert numbers(areas[-1].path)[1] == 0


def test_marks_are_where_a_label_is_likely() -> None:
    prediction = made_up(30, timed=False).prediction
    for area in draw(prediction, MELD, ORDER).areas:
        for x, _ in area.marks:
            assert prediction.emotions[int(x * 30 / 100)].probabilities[MELD[area.label]] >= 0.2


def test_a_chat_of_days_is_drawn_by_turn() -> None:
    spoken = tuple(Utterance("hm", start_ms=k * 86_400_000) for k in range(4))
    assert spans_ms(Conversation(spoken)) == [(k * 86_400_000, k * 86_400_000 + 5000) for k in range(4)]
    explained = made_up(4).prediction
    assert not draw(type(explained)(Conversation(spoken), explained.emotions), MELD, ORDER).by_time


def test_spans_of_turns_without_an_end() -> None:
    spoken = (Utterance(start_ms=0), Utterance(start_ms=900), Utterance(start_ms=900, end_ms=800))
    assert spans_ms(Conversation(spoken)) == [(0, 900), (900, 5900), (900, 5900)]
    assert spans_ms(Conversation((*spoken, Utterance("when?")))) is None


def test_speakers_beyond_the_twelfth_lane_share_one() -> None:
    timeline = draw(made_up(60, speakers=[f"P{k}" for k in range(30)]).prediction, MELD, ORDER)
    assert len(timeline.lanes) == LANES
    assert timeline.lanes[-1] == "19 others"
    assert {bar.lane for bar in timeline.bars} == set(range(LANES))
    assert draw(made_up(3, speakers=()).prediction, MELD, ORDER).lanes == ("all turns",)
    assert draw(made_up(3, speakers=("Ann", "")).prediction, MELD, ORDER).lanes == ("Ann", "unnamed")


def test_answers_against_a_plain_loop() -> None:
    prediction = made_up(50, speakers=("Ann", "Ben", "Ben", "Cleo")).prediction
    found = count_answers(prediction, MELD)
    spoken, emotions = prediction.conversation.utterances, prediction.emotions
    pairs = [
        (emotions[k].label, emotions[k + 1].label)
        for k in range(49)
        if spoken[k].speaker != spoken[k + 1].speaker
    ]
    assert found.total == len(pairs) < 49
    assert found.same == sum(a == b for a, b in pairs)
    for row, before in zip(found.rows, found.labels, strict=True):
        for cell, after in zip(row, found.labels, strict=True):
            assert cell.count == pairs.count((MELD[before], MELD[after]))
            assert (cell.shade == 0) == (cell.count == 0)
            assert cell.shade <= 5


def test_answers_of_one_speaker_and_of_nobody() -> None:
    assert count_answers(made_up(9, speakers=("Ann",)).prediction, MELD).total == 0
    unnamed = count_answers(made_up(9, speakers=()).prediction, MELD)
    assert (unnamed.total, unnamed.named) == (8, False)


def test_voices_add_up() -> None:
    found = voices(made_up(21, speakers=("Ann", "Ben", "Ann")).prediction, MELD, ORDER)
    assert [(voice.name, voice.turns) for voice in found] == [("Ann", 14), ("Ben", 7)]
    for voice in found:
        assert sum(p.count for p in voice.portions) == voice.turns
        assert sum(p.width for p in voice.portions) == pytest.approx(100, abs=0.1)


@pytest.mark.parametrize(
    ("ms", "said"), [(0, "0:00"), (59_999, "0:59"), (754_000, "12:34"), (3_723_000, "1:02:03")]
)
def test_clock(ms: int, said: str) -> None:
    assert clock(ms) == said


def test_numbers_are_written_as_people_read_them() -> None:
    shown = [percent(x).replace("\xa0", " ") for x in (0, 0.001, 0.005, 0.4949, 0.994, 0.999, 1)]
    assert shown == ["0 %", "< 1 %", "0 %", "49 %", "99 %", "> 99 %", "100 %"]
    assert [points(x) for x in (0.123, -0.0999, -0.034, 0.00001)] == ["+12", "−10", "−3.4", "+0.001"]
