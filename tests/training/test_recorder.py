from mixprint.training.recorder import Sums, add_to, means_of


def test_a_figure_is_averaged_over_the_steps_that_have_it() -> None:
    sums: Sums = {}
    for values in ({"loss": 1.0}, {"loss": 3.0, "other": 6.0}):
        add_to(sums, values)
    assert means_of(sums) == {"loss": 2.0, "other": 6.0}
