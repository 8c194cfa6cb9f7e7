"""The search for what a whole network shares, on errors that are known."""

import math

from spikeloom.convert.signgd.search import GRID, NEGLIGIBLE, Setting, best_setting


def searched(error, *, starts=(Setting(1.0, 0.7, 1.0),), fixed=()):
    return best_setting(starts, fixed, lambda setting, limit: error(setting), progress=False)


def bowl(margin, decay, caution):
    """Least at a place of the grid, by far."""
    wanted = {"margin": margin, "decay": decay, "caution": caution}
    at = {name: GRID[name].index(value) for name, value in wanted.items()}

    def error(setting):
        return 1e-3 * 4.0 ** sum(
            abs(GRID[name].index(getattr(setting, name)) - place) for name, place in at.items()
        )

    return error


def test_the_least_error_is_found_from_either_side():
    for best in ((0.6, 0.9, 0.0), (6.0, 0.5, 16.0), (1.5, 0.8, 0.5)):
        assert searched(bowl(*best)) == Setting(*best)


def test_what_is_fixed_stays():
    found = searched(bowl(4.0, 0.5, 2.0), fixed={"margin"})
    assert found == Setting(1.0, 0.5, 2.0)


def test_the_best_start_is_taken():
    def ravine(setting):
        return 1e-4 if setting == Setting(2.5, 0.6, 1.4) else 1.0

    starts = (Setting(1.0, 0.7, 1.0), Setting(2.5, 0.6, 1.4))
    assert searched(ravine, starts=starts) == starts[1]


def test_headroom_that_costs_nothing_is_taken():
    assert searched(lambda setting: NEGLIGIBLE / 10) == Setting(6.0, 0.7, 16.0)


def test_nan_is_worse_than_any_number():
    def error(setting):
        return math.nan if setting.margin != 1.5 else 1.0

    assert searched(error).margin == 1.5


def test_no_setting_is_tried_twice():
    tried = []

    def error(setting):
        tried.append(setting)
        return bowl(1.5, 0.6, 1.0)(setting)

    searched(error)
    assert len(tried) == len(set(tried)) < 25


def test_an_error_that_is_given_up_at_its_limit_leads_to_the_same_setting():
    starts = (Setting(1.0, 0.7, 1.0), Setting(2.5, 0.6, 1.4), Setting(0.6, 0.9, 16.0))
    for best in ((0.6, 0.9, 0.0), (4.0, 0.5, 11.0), (1.5, 0.8, 0.5)):
        error = bowl(*best)

        def given_up(setting, limit, error=error):
            return min(error(setting), limit)

        found = best_setting(starts, (), given_up, progress=False)
        assert found == searched(error, starts=starts) == Setting(*best)


def test_a_trial_is_told_the_least_error_so_far():
    limits = []

    def error(setting, limit):
        limits.append(limit)
        return bowl(1.5, 0.8, 0.5)(setting)

    best_setting((Setting(1.0, 0.7, 1.0), Setting(2.5, 0.6, 1.4)), (), error, progress=False)
    assert limits[0] == math.inf and all(limit < math.inf for limit in limits[1:])
