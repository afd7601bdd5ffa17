"""The privacy report: right numbers, nothing hidden, the same bytes, for every unit."""

import json
import re
import shutil
import time
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.core import RoundRecord
from fedsim.errors import ConfigError, LedgerError, UnknownRunError
from fedsim.privacy import accounting
from fedsim.privacy.budget import Budget, Spent
from fedsim.privacy.events import Release, Sampling
from fedsim.privacy.ledger import Entry, Ledger, Spend, grouped, ledger_path
from fedsim.report import privacy
from fedsim.report.privacy.spent import histories
from fedsim.store import RunStore, append_receipt

SHA = 64 * "a"
SCHEMA = json.loads((resources.files("fedsim") / "report" / "privacy.schema.json").read_text())
RELEASE = Release("gaussian", 8.0)  # without sampling: accounted at once
SAMPLED = Release("gaussian", 1.0, Sampling("truncated", 0.1, 100, 26))
EVERYBODY = (Spend(RELEASE),)
METRICS = {"train/loss": 1.0, "federated/accuracy": 0.5, "test/accuracy": 0.6}


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


def new_run(store, name="digits", *, count=4, clients=100, **privacy):
    config = {
        "name": name,
        "model": {"name": "linear"},
        "rounds": {"count": count, "cohort": 10},
        "privacy": {
            "unit": "user",
            "epsilon": 3.0,
            "delta": 1e-5,
            "clipping_norm": 0.5,
            "noise_multiplier": 8.0,
            "sampling": "truncated",
            "noise": "secret",
            **privacy,
        },
    }
    facts = {"data_sha256": SHA, "clients": clients, "dimension": 650, "fraction_bits": 50}
    return store.create(name, config, {}, {"clients": clients, "examples": 2000}, facts)


def spend(store, run, rounds, spends=EVERYBODY, *, unit="user", keep=True, plan=()):
    """Write entries, and keep the receipts as a run does; returns the ledger."""
    ledger = Ledger(ledger_path(store.root, "digits", SHA, unit))
    adjacency = accounting.ADJACENCY[unit]
    for number in rounds:
        moment = f"2026-01-01T00:00:{number % 60:02d}Z"
        entry = Entry(run, number, unit, "digits", moment, adjacency, tuple(spends), tuple(plan))
        receipt, plan = ledger.admit(entry), ()
        if keep:
            append_receipt(store, receipt)
    return ledger


def finish(store, run, rounds, metrics=METRICS, cohort=10):
    for number in rounds:
        record = RoundRecord(
            round=number,
            metrics=metrics,
            clients=[],
            seconds={},
            real_seconds=1.0,
            cohort=cohort,
            bytes_down=1,
            bytes_up=1,
            model_sha256="m",
        )
        store.append(run, record)


def done(store, name="digits", rounds=4, **changes):
    run = new_run(store, name, count=rounds, **changes)
    spend(store, run, range(1, rounds + 1), plan=[Spend(replace(RELEASE, count=rounds))])
    finish(store, run, range(1, rounds + 1))
    return run


def report(store, run="last"):
    """Build the report, and check it against its schema."""
    content = privacy.build(privacy.gather(store, run))
    text = privacy.as_json(content)
    jsonschema.validate(json.loads(text, parse_constant=pytest.fail), SCHEMA)
    assert not re.search(r"\bNone\b(?!\. It would)", privacy.as_markdown(content))
    return content


class Page(HTMLParser):
    """Collects visible text by line, and what a page would load."""

    VOID = frozenset({"meta", "br", "path", "use", "rect"})

    def __init__(self):
        super().__init__()
        self.lines, self.loads, self.open, self.ids = [], [], [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.loads += [found[k] for k in ("src", "href", "xlink:href") if found.get(k)]
        self.ids += [found["id"]] if "id" in found else []
        assert tag not in ("script", "iframe", "object", "embed", "link", "img")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        found = dict(attributes)
        self.loads += [found[k] for k in ("src", "href", "xlink:href") if found.get(k)]
        self.ids += [found["id"]] if "id" in found else []

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] in ("h1", "dt", "dd"):
            self.lines.append(data.strip())


def check_page(text):
    page = Page()
    page.feed(text)
    assert page.open == []
    assert all(target.startswith("#") for target in page.loads)
    assert "url(http" not in text
    assert "@import" not in text
    assert len(page.ids) == len(set(page.ids))
    return page


def first_lines(content):
    """Return the first ten lines of the Markdown, and of what the HTML shows."""
    page = check_page(privacy.as_html(content))
    pairs = [" ".join(pair) for pair in zip(page.lines[1::2], page.lines[2::2], strict=True)]
    return privacy.as_markdown(content).splitlines()[:10], [page.lines[0], *pairs]


def test_the_numbers_are_those_that_are_known(store):
    """Tramer and Boneh's F-MNIST CNN: epsilon by PLD, TPR bounds and mu computed with others' code.

    dp-accounting's own PLD and (for mu) a fit of its profile; tolerance 1e-3, of rates 1e-4.
    """
    run = new_run(store, count=100, delta=1e-5, noise_multiplier=2.15, sampling="poisson")
    release = Release("gaussian", 2.15, Sampling("poisson", 2048 / 60000), 12)
    spend(store, run, range(1, 101), [Spend(release)])
    content = report(store)
    promise = content["guarantee"]["run"]
    assert promise["epsilon"] == pytest.approx(2.42060, abs=1e-3)
    rates = {r["false_positive_rate"]: r["at_most"] for r in promise["true_positive_rate"]}
    assert rates[0.01] == pytest.approx(0.0409, abs=1e-4)
    assert rates[0.001] == pytest.approx(0.0062, abs=1e-4)
    # 0.594 fits the profile best; ours is nowhere below it.
    assert 0.594 <= content["accounting"]["mu"]["mu"] <= 0.61
    first = content["accounting"]["epsilons"][0]
    assert first["renyi"] == pytest.approx(2.63897, rel=1e-2)
    # Everybody in each of 1,200 releases is one Gaussian of mu = sqrt(1200) / 2.15.
    assert first["without_amplification"] == pytest.approx(
        accounting.epsilon([Release("gaussian", 2.15 / 1200**0.5)], 1e-5, "zero-out"), rel=1e-9
    )
    assert len(content["accounting"]["epsilons"]) == 3


def test_the_first_ten_lines_tell_a_non_expert(store):
    run = done(store)
    content = report(store)
    own = accounting.epsilon([replace(RELEASE, count=4)], 1e-5, "zero-out")
    for lines in first_lines(content):
        text = "\n".join(lines)
        assert len(lines) <= 10
        assert run in lines[0]
        assert "unit: user; clients: 100" in text
        assert "adjacency: zero-out" in text
        shown = re.search(r"epsilon ([\d.]+) at delta 1e-05 for this run; the cap is 3", text)
        assert own <= float(shown[1]) <= own * 1.001
        assert "1 % of those not in the data (false positives)" in text
        assert re.search(r"at most [\d.]+ % of those in them \(true positives\)", text)
        assert "stored without noise (federated/accuracy, train/loss)" in text
        assert "test/accuracy" not in text
        assert "number of clients" in text
        assert "choosing the settings" in text
        assert "sees each client's clipped update before noise" in text


def test_a_seeded_run_says_so_first_of_all(store):
    done(store, noise="seeded")
    content = report(store)
    assert content["guarantee"]["holds"] is False
    assert next(iter(content)) == "notice"
    assert privacy.as_json(content).splitlines()[1].startswith(' "notice": "seeded: not private')
    for lines in first_lines(content):
        assert lines[0].removeprefix("# ").startswith("seeded: not private")
        text = "\n".join(lines)
        assert "None. It would be epsilon" in text
        assert "Nothing is promised" in text
    status = {check["check"]: check["status"] for check in content["checks"]}
    assert status["The noise is secret"] == "fail"
    hazard = {h["hazard"]: h["status"] for h in content["hazards"]}
    assert hazard["Noise can be predicted"] == "open"


def test_the_same_ledger_gives_the_same_bytes_anywhere(store, tmp_path, monkeypatch):
    run = done(store)
    content = report(store)
    first = {form: privacy.rendered(content, form) for form in ("html", "json", "md")}
    shutil.copytree(store.root, tmp_path / "elsewhere")
    monkeypatch.setattr(time, "time", lambda: 1.0)
    again = report(RunStore(tmp_path / "elsewhere"), run)
    for form, text in first.items():
        assert privacy.rendered(again, form) == text
        assert str(tmp_path) not in text


def test_runs_on_the_same_data_are_composed(store):
    first, second = done(store, "first"), done(store, "second", rounds=2)
    content = report(store, second)
    promise = content["guarantee"]
    for key, count in (("run", 2), ("data_set", 6)):
        expected = accounting.epsilon([replace(RELEASE, count=count)], 1e-5, "zero-out")
        assert promise[key]["epsilon"] == pytest.approx(expected, abs=1e-9)
    assert promise["data_set"]["runs"] == 2
    assert promise["data_set"]["holds"] is True
    assert content["budget"]["remaining"] == pytest.approx(
        3 - promise["data_set"]["epsilon"], abs=1e-9
    )
    assert [(r["run"], r["is_this"], r["entries"]) for r in content["runs"]] == [
        (first, False, 4),
        (second, True, 2),
    ]
    trajectory = content["plots"]["trajectory"]
    assert trajectory["data_set"][-1] == pytest.approx(promise["data_set"]["epsilon"], abs=1e-9)
    assert trajectory["epsilons"][0]["epsilon"][-1] == pytest.approx(promise["run"]["epsilon"])
    assert "for all 2 runs on these data" in privacy.as_markdown(content)


@pytest.mark.parametrize("what", ["seeded", "deleted"])
def test_a_total_with_noise_that_is_not_secret_does_not_hold(store, what):
    other = done(store, "other", noise="seeded" if what == "seeded" else "secret")
    run = done(store)
    if what == "deleted":
        store.delete(other)
    content = report(store, run)
    assert content["guarantee"]["holds"] is True
    assert content["guarantee"]["data_set"]["holds"] is False
    check = content["checks"][0]
    assert check["status"] == ("fail" if what == "seeded" else "warn")
    assert content["runs"][0]["noise"] == ("seeded" if what == "seeded" else "unknown")


def test_runs_without_privacy_on_the_same_data_are_named(store):
    bare = new_run(store, "bare", unit="none")
    done(store)
    content = report(store)
    assert content["tuning"]["without_privacy"] == [bare]
    (check,) = [c for c in content["checks"] if c["check"].startswith("Nothing else")]
    assert check["status"] == "warn"
    assert bare in check["reason"]
    items = {i["what"]: i for i in content["unprotected"]}
    assert items["Choosing the settings"]["status"] == "not accounted"
    assert "1 run(s) without privacy" in items["Choosing the settings"]["detail"]


def test_rounds_repeated_unfinished_refused_and_never_reached_are_seen(store):
    run = new_run(store, count=10)
    plan = [Spend(replace(RELEASE, count=10))]
    spend(store, run, [1, 2, 3, 3], plan=plan)
    spend(store, run, [4], keep=False)  # it died before it knew
    finish(store, run, [1, 2, 3])
    line = (
        f"2026-01-02T00:00:00Z failed: round 5 of run {run} is refused, no client has trained in "
        "it: it would take everybody to epsilon 3.1\n"
    )
    (store.folder(run) / "run.log").write_text(f"2026-01-01T00:00:00Z running\n{line}")
    content = report(store)
    found = content["rounds"]
    assert found["planned"] == 10
    assert (found["entries"], found["in_ledger"], found["finished"]) == (5, 4, 3)
    assert found["repeated"] == [{"round": 3, "times": 2}]
    assert found["unfinished"] == [[4, 4]]
    assert found["not_reached"] == [[5, 10]]
    (refused,) = found["refused"]
    assert (refused["round"], refused["time"]) == (5, "2026-01-02T00:00:00Z")
    assert "it would take everybody to epsilon 3.1" in refused["reason"]
    five = accounting.epsilon([replace(RELEASE, count=5)], 1e-5, "zero-out")
    assert content["guarantee"]["run"]["epsilon"] == pytest.approx(five, abs=1e-9)
    ten = accounting.epsilon([replace(RELEASE, count=10)], 1e-5, "zero-out")
    assert content["budget"]["planned"]["epsilon"] == pytest.approx(ten, abs=1e-9)
    text = privacy.as_markdown(content)
    assert "3 (2 times)" in text
    assert "| planned, not reached | 5-10 |" in text


def test_without_a_log_refusals_are_not_recorded(store):
    done(store)
    assert report(store)["rounds"]["refused"] == "not recorded"


def test_a_round_outside_the_ledger_voids_the_promise(store):
    run = new_run(store)
    spend(store, run, [1, 2])
    finish(store, run, [1, 2, 3])
    content = report(store)
    assert content["guarantee"]["holds"] is False
    assert content["rounds"]["without_entry"] == [[3, 3]]
    status = {check["check"]: check["status"] for check in content["checks"]}
    assert status["Every round is in the ledger"] == "fail"
    assert "Nothing is promised" in privacy.as_markdown(content)


def test_noise_and_cohorts_that_are_not_those_accounted_are_found(store):
    run = new_run(store, count=12, noise_multiplier=2.0)
    spend(store, run, range(1, 13), [Spend(SAMPLED)])
    finish(store, run, range(1, 13), cohort=10)  # always ten: nobody drew them one by one
    content = report(store)
    status = {check["check"]: check["status"] for check in content["checks"]}
    assert status["The ledger has the noise that was configured"] == "fail"
    assert status["Cohorts are as they were accounted"] == "fail"
    assert content["sampling"]["p_mean"] == 1.0
    assert content["sampling"]["p_spread"] < 1e-6
    hazards = {h["hazard"]: h["status"] for h in content["hazards"]}
    assert hazards["The mechanism is not the one that is accounted"] == "open"


def test_example_level_tells_the_most_and_only_coarsely_who_spent_what(store):
    run = new_run(store, unit="example", epsilon=8.0, clients=5, delta=1e-5)
    big = Release("gaussian", 1.0, Sampling("poisson", 0.01), 20)
    small = Release("gaussian", 1.0, Sampling("poisson", 0.04), 20)
    spend(store, run, [1, 2], grouped({0: big, 1: small, 3: big}), unit="example")
    spend(store, run, [3], grouped({1: small}), unit="example")
    finish(store, run, [1, 2, 3])
    content = report(store)
    worst = accounting.epsilon([replace(small, count=60)], 1e-5, "zero-out")
    assert content["guarantee"]["run"]["epsilon"] == pytest.approx(worst, abs=1e-9)
    clients = content["clients"]
    assert clients["quarters_of"] == 8.0
    low, high = clients["coarse"]["most"]
    assert low <= worst <= high
    assert clients["coarse"]["least"] == [0.0, 2.0]  # two of five were never asked
    assert content["accounting"]["of"] == "the client that spent most"
    values = content["plots"]["trajectory"]["epsilons"][0]["epsilon"]
    assert values[-1] == pytest.approx(worst, abs=1e-9)
    assert values == sorted(values)
    lines = "\n".join(first_lines(content)[0])
    assert "one example (one record) of one client (unit: example" in lines
    assert "the same data sets, but for one example that contributes zero" in lines
    other = accounting.epsilon([replace(big, count=40)], 1e-5, "zero-out")
    assert f"{other:.4g}" not in privacy.as_json(content)
    items = {i["what"]: i["detail"] for i in content["unprotected"]}
    assert "every client's number of examples" in items["Number of clients"]


def test_local_level(store):
    run = new_run(store, unit="local", epsilon=None, clients=5)
    pure = Release("pure", epsilon=0.7)
    gaussian = Release("gaussian", 5.0)
    spend(store, run, [1, 2], grouped({0: gaussian, 4: pure}), unit="local")
    finish(store, run, [1, 2])
    content = report(store)
    expected = max(
        accounting.epsilon([replace(pure, count=2)], 1e-5, "replace-one"),
        accounting.epsilon([replace(gaussian, count=2)], 1e-5, "replace-one"),
    )
    assert content["guarantee"]["run"]["epsilon"] == pytest.approx(expected, abs=1e-9)
    assert content["guarantee"]["adjacency"] == "replace-one"
    assert content["setting"]["model"] == "local"
    assert content["registry"]["deployment"]["deployment_model"]["model_name"] == "Local"
    assert content["budget"]["cap"] is None
    assert "there is no cap" in "\n".join(first_lines(content)[0])


def test_turns_count_for_the_client_most_often_in_them(store):
    run = new_run(store, count=3, clients=4, sampling="cyclic", epsilon=None, delta=0.01)
    everybody = Release("gaussian", 2.0)
    for number, clients in enumerate([(0, 1), (2, 3), (0, 1)], start=1):
        spend(store, run, [number], [Spend(everybody, clients)])
    finish(store, run, [1, 2, 3], cohort=2)
    content = report(store)
    two = accounting.epsilon([replace(everybody, count=2)], 0.01, "zero-out")
    assert content["guarantee"]["run"]["epsilon"] == pytest.approx(two, abs=1e-9)
    assert content["guarantee"]["run"]["method"] == "exact"
    values = content["plots"]["trajectory"]["epsilons"][0]["epsilon"]
    assert values[0] == pytest.approx(values[1])
    assert content["clients"]["coarse"]


def test_correlated_noise_is_one_release_in_the_first_entry(store):
    changes = {"mechanism": "matrix", "sampling": "cyclic", "noise_multiplier": 4.0}
    run = new_run(store, count=4, clients=20, delta=0.01, **changes)
    spend(store, run, [1], [Spend(Release("matrix", 2.0, count=4))])
    spend(store, run, [2, 3, 4], [])
    finish(store, run, [1, 2, 3, 4])
    content = report(store)
    one = accounting.epsilon([Release("gaussian", 2.0)], 0.01, "zero-out")
    assert content["guarantee"]["run"]["epsilon"] == pytest.approx(one, abs=1e-9)
    assert content["mechanism"]["participations"] == {"most": 2, "least_separation": 2}
    assert content["mechanism"]["noise_std_of_sum"] == "not recorded"
    assert "fail" not in {check["status"] for check in content["checks"]}


def test_no_noise_is_no_privacy(store):
    run = new_run(store, epsilon=None, noise_multiplier=0.0)
    spend(store, run, [1], [Spend(Release("gaussian", 0.0))])
    finish(store, run, [1])
    content = report(store)
    assert content["guarantee"]["run"]["epsilon"] == "infinity"
    assert content["guarantee"]["run"]["true_positive_rate"][0]["at_most"] == 1.0
    assert "epsilon infinity at delta" in "\n".join(first_lines(content)[0])


def test_a_run_that_spent_nothing(store):
    run = new_run(store)
    content = report(store, run)
    assert content["guarantee"]["run"]["epsilon"] == 0.0
    assert content["guarantee"]["run"]["true_positive_rate"][0]["at_most"] == pytest.approx(0.01)
    assert content["ledger"]["entries"] == 0
    assert content["checks"][1]["status"] == "warn"
    done(store, "other")  # from now on there is a ledger, without this run
    content = report(store, run)
    assert content["guarantee"]["run"]["epsilon"] == 0.0
    assert content["guarantee"]["data_set"]["epsilon"] > 0


def test_a_run_without_a_unit_is_refused_with_what_is_nearest(store):
    bare = new_run(store, "bare", unit="none")
    with pytest.raises(
        ConfigError, match=r"privacy.unit.*nothing was promised.*fedsim run"
    ) as info:
        privacy.gather(store, bare)
    assert f"fedsim report {bare}" in str(info.value)
    private = done(store)
    with pytest.raises(ConfigError, match=f"fedsim privacy report {private}"):
        privacy.gather(store, bare)
    facts = {"notice": "DP-SGD with seeded noise: simulated, not private."}
    seeded = store.create("dp-sgd", {"name": "dp-sgd"}, {}, {}, facts)
    with pytest.raises(ConfigError, match="DP-SGD with seeded noise"):
        privacy.gather(store, seeded)
    with pytest.raises(UnknownRunError):
        privacy.gather(store, "nowhere")


def test_a_ledger_that_was_tampered_with_gives_no_report(store):
    run = done(store)
    path = ledger_path(store.root, "digits", SHA, "user")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"round":2', b'"round":7'))
    with pytest.raises(LedgerError, match="line 2"):
        report(store, run)
    path.unlink()
    path.with_suffix(".head").unlink()
    with pytest.raises(LedgerError, match="a run knows of it"):
        report(store, run)


def test_quoted_text_cannot_become_markup(store):
    evil = '<script>alert("x")</script> | `code` [a](http://evil)\n# big'
    run = done(store, evil)
    content = report(store, run)
    assert "<script" not in privacy.as_html(content)
    text = privacy.as_markdown(content)
    assert "<script" not in text
    assert "\n# big" not in text


def test_unfinished_lines_and_other_units_are_counted(store):
    run = done(store)
    with ledger_path(store.root, "digits", SHA, "user").open("ab") as file:
        file.write(b'{"entry":{"adj')
    spend(store, run, [4])
    other = new_run(store, "other", unit="example")
    spend(store, other, [1], grouped({0: Release("gaussian", 1.0)}), unit="example")
    content = report(store, run)
    assert content["ledger"]["set_aside"] == 1
    assert content["ledger"]["other_units"] == ["digits.aaaaaaaaaaaaaaaa.example.jsonl"]
    hazards = {h["hazard"]: h["status"] for h in content["hazards"]}
    assert hazards["Repeated releases add up unnoticed"] == "open"


RELEASES = st.sampled_from(
    [SAMPLED, Release("gaussian", 2.0, count=3), Release("matrix", 3.0, count=5)]
)
SPENDS = st.builds(
    Spend, RELEASES, st.none() | st.sets(st.integers(0, 5), max_size=4).map(sorted).map(tuple)
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(SPENDS, min_size=1, max_size=3), min_size=1, max_size=5))
def test_histories_are_those_that_the_budget_counts(all_spends):
    spent = Spent()
    entries = []
    for number, spends in enumerate(all_spends, start=1):
        entries.append(Entry("r", number, "user", "d", "t", "zero-out", tuple(spends)))
        spent.add(entries[-1])

    def plain(found):
        counted = {}
        for releases, clients in found:
            key = tuple(sorted(map(repr, releases)))
            counted[key] = counted.get(key, 0) + clients
        return {key: clients for key, clients in counted.items() if key}

    ours = [(history.releases, history.clients) for history in histories(entries)]
    assert plain(ours) == plain(spent.histories())


def test_budget_and_report_agree(store):
    run = new_run(store, count=4)
    ledger = spend(store, run, [1, 2, 3, 4])
    cap = Budget(3.0, 1e-5)
    content = report(store)
    assert content["guarantee"]["data_set"]["epsilon"] <= cap.epsilon
    assert content["ledger"]["hash"] == ledger.verify().hash


@pytest.mark.slow
def test_ten_thousand_rounds_make_a_page_of_usual_size(store):
    rounds = 10_000
    run = new_run(store, count=rounds, clients=10_000, noise_multiplier=1.1)
    release = Release("gaussian", 1.1, Sampling("truncated", 0.01, 10_000, 151))
    spend(store, run, range(1, rounds + 1), [Spend(release)], keep=False)
    content = privacy.build(privacy.gather(store, run))
    text = privacy.as_html(content)
    assert len(content["plots"]["trajectory"]["entries"]) <= 200
    assert len(text) < 2_000_000
