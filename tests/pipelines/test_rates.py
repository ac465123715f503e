"""What a night is likely to cost, by the releases before it."""

import dataclasses

from pipelines.launch.crew import WorkersWish, choose_crew
from pipelines.planning.rates import Rates
from stores.names import Counter, Step
from tests.transforms.gates.releases import manifest_of


def night(embedded: int, reused: int, seconds: float):
    """A release of 1,000 pins, of which its pin branch took so many seconds."""
    counters = {
        Step.EMBED_PINS: {Counter.PINS_EMBEDDED: embedded, Counter.PINS_REUSED: reused},
        Step.EMBED_USERS: {Counter.USERS_EMBEDDED: 10},
        Step.READ_LOGS: {Counter.ROWS_READ: 100},
    }
    timings = {Step.EMBED_PINS: seconds, Step.EMBED_USERS: 1.0, Step.READ_LOGS: 1.0}
    return dataclasses.replace(manifest_of(10, 1000, 1000), counters=counters, timings=timings)


def test_pins_that_stay_as_they_were_are_pins_of_the_night():
    """Nights that make one pin in a hundred again cost what they cost, and not a hundred times that."""
    rates = Rates.of([night(10, 990, 2.0)] * 3)
    assert rates.pin_s == 0.002
    assert rates.work_s(10, 100, 1000) == 1.0 + 1.0 + 2.0


def test_what_no_release_tells_is_not_said_in_seconds():
    rates, wish = Rates.of([]), WorkersWish()
    assert not rates.tell and Rates.of([night(1000, 0, 3.0)]).tell
    guess = rates.work_s(None, 492_900, 60_000)
    assert "s of work" in choose_crew(wish, guess, 8, "cpu").why
    shown = choose_crew(wish, guess, 8, "cpu", known=rates.tell)
    assert shown.count == choose_crew(wish, guess, 8, "cpu").count and "no release tells" in shown.why
