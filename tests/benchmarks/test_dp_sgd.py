"""What the DP-SGD benchmark says of its measurements."""


def test_ratios_are_of_the_same_cycle_and_each_has_its_target(bench):
    dp_sgd = bench("dp_sgd")
    seconds = {
        dp_sgd.PLAIN: [0.1, 0.2, 0.1],
        dp_sgd.OURS_PLAIN: [0.05, 0.1, 0.05],
        dp_sgd.USER: [0.055, 0.11, 0.05],
        dp_sgd.OURS: [0.13, 0.26, 0.13],
        dp_sgd.MAKE_PRIVATE: [0.52, 1.04, 0.40],
        dp_sgd.GHOST: [0.3, 0.6, 0.3],
    }
    lines = dp_sgd.lines_of(seconds)
    assert "| **DP-SGD, ours** | 130.0 | 1.30 | 2.60 | 4.00 |" in lines
    assert lines[-3:] == [
        "- DP-SGD / plain SGD: 1.30 (target ≤ 1.40) PASS",
        "- `make_private` / DP-SGD: 4.00 (target ≥ 3.50) PASS",
        "- user-level clipping / plain SGD, ours: 1.10 (target ≤ 1.05) FAIL",
    ]


def test_sittings_are_kept_and_count_together(bench, tmp_path):
    dp_sgd = bench("dp_sgd")
    file = tmp_path / "sittings"
    assert dp_sgd.pooled(file, {"a": [1.0], "b": [2.0]}) == {"a": [1.0], "b": [2.0]}
    found = dp_sgd.pooled(file, {"a": [3.0, 4.0], "b": [5.0, 6.0]})
    assert found == {"a": [1.0, 3.0, 4.0], "b": [2.0, 5.0, 6.0]}
