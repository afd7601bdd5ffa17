"""Readers of FedScale's and FLASH's files, on small files in their formats."""

import json
import os
import pickle

import numpy as np
import pytest

from fedsim.devices import Work
from fedsim.devices.fedscale import FedScale
from fedsim.devices.flash import Flash
from fedsim.errors import ConfigError, DataError, MissingDataError


@pytest.fixture
def fedscale(tmp_path):
    capacity = {
        1: {"computation": 40.0, "communication": 8000.0},
        2: {"computation": np.float64(100.0), "communication": 1000},
    }
    times = {
        0: {
            "active": [10, 50],
            "inactive": [20, 90],
            "finish_time": 80,
            "duration": 40,
            "model": "x",
        },
        1: {
            "active": [0],
            "inactive": [172800],
            "finish_time": 172800,
            "duration": 1,
            "model": "y",
        },
    }
    (tmp_path / "capacity").write_bytes(pickle.dumps(capacity))
    (tmp_path / "times.json").write_text(json.dumps(times))
    return FedScale(str(tmp_path / "capacity"), str(tmp_path / "times.json"))


def test_fedscale_seconds_are_those_of_its_own_formulas(fedscale):
    # get_completion_time: 3 x batch x steps x computation / 1000; kilobits / communication, and
    # the size of a model in kilobits is bytes / 1024 x 8.
    fleet = fedscale.fleet(0)
    work = Work(down_bytes=512_000, examples=20 * 5, flops=1e9, up_bytes=256_000)
    for client, computation, communication in ((0, 40.0, 8000.0), (1, 100.0, 1000.0)):
        spans = fleet.device(client).spans(work)
        assert spans.compute_s == pytest.approx(3.0 * 20 * 5 * computation / 1000, rel=1e-12)
        sent = (512_000 + 256_000) / 1024 * 8 / communication
        assert spans.down_s + spans.up_s == pytest.approx(sent, rel=1e-12)
    assert fleet.device(2) == fleet.device(0)  # from the first again


def is_active(trace, cur_time):
    """FedScale's definition, without its cursor."""
    at = cur_time % trace["finish_time"]
    pairs = zip(trace["active"], trace["inactive"], strict=True)
    return any(begin <= at < end for begin, end in pairs)


def test_fedscale_availability_is_that_of_its_lists(fedscale):
    fleet = fedscale.fleet(0)
    traces = list(json.loads(open(fedscale.availability).read()).values())  # noqa: SIM115, PTH123
    for client in range(4):
        for at in (0, 5, 10, 19.5, 20, 49, 60, 79, 85, 95, 170, 1e6):
            there = fleet.availability(client).online_until(at) is not None
            assert there == is_active(traces[client % 2], at), (client, at)
    assert fleet.availability(0).online_until(15.0) == 20.0
    assert fleet.sha256 != FedScale(fedscale.capacity).fleet(0).sha256


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, ("true",)

    (tmp_path / "bad").write_bytes(pickle.dumps({1: {"computation": Hostile()}}))
    with pytest.raises(DataError, match=r"it names \w+\.system"):
        FedScale(str(tmp_path / "bad")).fleet(0)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[1]", "no trace of devices"),
        ('{"1": 3}', "no table for device '1'"),
        ("{", "no trace of devices"),
        ('{"1": {"computation": 0, "communication": 5}}', "computation = 0 is no number above 0"),
        ('{"1": {"computation": 4}}', "communication = None"),
    ],
)
def test_other_files_are_refused_with_a_reason(tmp_path, content, text):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=text):
        FedScale(str(tmp_path / "x.json")).fleet(0).device(0)


def test_a_file_that_is_not_named_or_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"devices\.capacity"):
        FedScale().fleet(0)
    with pytest.raises(ConfigError, match=r"devices\.states"):
        Flash().fleet(0)
    with pytest.raises(MissingDataError, match="nothing"):
        FedScale(str(tmp_path / "nothing")).fleet(0)


MESSAGES = """2020-01-28 10:00:00\tscreen_unlock
2020-01-28 10:00:10\twifi
2020-01-28 10:00:20\tscreen_lock
2020-01-28 10:00:30\tbattery_charged_on
2020-01-28 10:00:35\t81.0%
2020-01-28 10:01:00\t4g
2020-01-28 10:01:30\twifi
2020-01-28 10:02:00\tscreen_unlock
2020-01-28 10:02:40\tscreen_on
"""


@pytest.fixture
def flash(tmp_path):
    states = {
        "0": {"model": "P20", "messages": MESSAGES},
        "1": {"model": "other", "messages": MESSAGES.replace("10:0", "10:1")},
        "2": {"model": "other", "messages": ""},
    }
    links = {"a": {"down_u": 2000.0, "down_sigma": 1.0, "up_u": 500.0, "up_sigma": 1.0}}
    (tmp_path / "states.json").write_text(json.dumps(states))
    (tmp_path / "network.json").write_text(json.dumps(links))
    return Flash(str(tmp_path / "states.json"), str(tmp_path / "network.json"), 1e9)


def test_flash_devices_are_there_while_locked_on_wifi_and_charging(flash):
    # By hand: from 30 to 60 and from 90 to 120 of a trace of 160 seconds.
    there = flash.fleet(0).availability(0)
    assert [there.online_until(t) for t in (0, 29, 30, 45, 59, 60)] == [
        None,
        None,
        60,
        60,
        60,
        None,
    ]
    assert [there.next_online(t) for t in (0, 60, 95, 120)] == [30, 90, 95, 190]
    assert there.online_until(160 + 100) == 160 + 120
    # The other one's trace begins ten minutes later, and repeats before it, too.
    later = flash.fleet(0).availability(1)
    assert later.online_until(600 + 45) == 660
    assert flash.fleet(0).availability(2).next_online(0.0) == float("inf")


def test_flash_connections_and_speeds(flash):
    device = flash.fleet(0).device(0)
    assert device.spans(Work(2000 * 1024, 10, 1e8, 1000 * 1024)) == (
        type(device.spans(Work(0, 0, 0, 0)))(1.0, 1.0, 2.0)
    )
    fast = Flash(flash.states, flash.network, 1e9, models={"P20": 1e10}).fleet(0)
    assert (fast.device(0).flops_per_s, fast.device(1).flops_per_s) == (1e10, 1e9)
    drawn = Flash(flash.states, None, 1e9, down_mbps=8, up_mbps=4).fleet(0)
    assert (drawn.device(0).down_bytes_per_s, drawn.device(0).up_bytes_per_s) == (1e6, 5e5)


def test_a_line_without_a_time_is_told(flash, tmp_path):
    (tmp_path / "states.json").write_text(json.dumps({"7": {"messages": "yesterday\twifi"}}))
    with pytest.raises(DataError, match=r"device '7'.*yesterday"):
        flash.fleet(0)
