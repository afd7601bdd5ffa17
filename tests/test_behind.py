"""Work done behind the caller: in order, one at a time, nothing left undone, errors told."""

import threading

import pytest

from fedsim.behind import Behind


def test_what_is_written_is_told_in_order_and_in_the_callers_thread():
    told, threads = [], set()
    with Behind(lambda number: (told.append(number), threads.add(threading.get_ident()))) as behind:
        for number in range(5):
            behind.submit(lambda number=number: number)
    assert told == [0, 1, 2, 3, 4]
    assert threads == {threading.get_ident()}


def test_the_caller_goes_on_meanwhile():
    begun, go_on, told = threading.Event(), threading.Event(), []
    with Behind(told.append) as behind:
        behind.submit(lambda: (begun.set(), go_on.wait(10))[1])
        assert not begun.wait(0.05)  # until the caller has time
        behind.collect(wait=False)
        assert begun.wait(10)
        behind.collect(wait=False)
        assert told == []
        go_on.set()
        behind.collect(wait=True)
        assert told == [True]


def test_what_went_wrong_is_raised_at_the_next_piece_and_nothing_after_it_is_done():
    done = []

    def fail():
        raise OSError("full")

    with Behind(done.append) as behind:
        behind.submit(fail)
        with pytest.raises(OSError, match="full"):
            behind.submit(lambda: 1)
    assert done == []


def test_what_went_wrong_with_the_last_piece_is_raised_at_the_end():
    with pytest.raises(ZeroDivisionError), Behind(print) as behind:
        behind.submit(lambda: 1 / 0)


def test_another_error_goes_first_but_the_piece_is_done():
    done = []

    def interrupted():
        with Behind(print) as behind:
            behind.submit(lambda: done.append(1))
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert done == [1]
