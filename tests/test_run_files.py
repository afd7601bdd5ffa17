"""A run is one process's: others are refused, or wait for it."""

import threading
import time

import pytest

from fedsim.errors import RunFailedError
from fedsim.run_files import only_one, wait_until_free


def test_a_run_that_another_has_is_refused(tmp_path):
    with only_one(tmp_path, "mine"):
        message = "run mine is going on in another process"
        with pytest.raises(RunFailedError, match=message), only_one(tmp_path, "mine"):
            pass
    with only_one(tmp_path, "mine"):
        pass


def test_who_can_wait_has_it_as_soon_as_the_other_ends(tmp_path):
    held, let_go = threading.Event(), threading.Event()

    def former():
        with only_one(tmp_path, "mine"):
            held.set()
            let_go.wait(60)

    thread = threading.Thread(target=former)
    thread.start()
    held.wait(60)
    started = time.monotonic()
    wait_until_free(tmp_path, 0.3)  # in vain
    assert time.monotonic() - started >= 0.3
    with pytest.raises(RunFailedError), only_one(tmp_path, "mine"):
        pass
    threading.Timer(0.3, let_go.set).start()
    wait_until_free(tmp_path, 60)
    with only_one(tmp_path, "mine"):
        pass
    thread.join()
