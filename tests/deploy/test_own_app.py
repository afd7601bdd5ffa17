"""Nodes run the app that is installed on them, whatever bundle they are sent."""

from flwr.clientapp import ClientApp
from flwr.supernode.runtime import run_clientapp

from fedsim.deploy.own_app import only_ours
from fedsim.deployment import make_client_app


def test_nothing_of_a_bundle_is_imported(monkeypatch, tmp_path):
    before = run_clientapp.get_load_client_app_fn
    monkeypatch.setattr(run_clientapp, "get_load_client_app_fn", before)
    only_ours()
    load = run_clientapp.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
    app = load("somebody/bundle", "1.0.0", "ab" * 32)  # which is nowhere: Flower's own would raise
    assert isinstance(app, ClientApp)
    assert {"train.sa_masked", "query.sa_keys"} <= set(app._registered_funcs)


def test_the_app_can_be_sent_to_workers():
    """As Flower's simulation does, by Ray's own pickling."""
    from ray import cloudpickle

    app = cloudpickle.loads(cloudpickle.dumps(make_client_app()))
    assert "train.default" in app._registered_funcs


def test_flower_calls_it_as_we_stand_in_for_it():
    """The call in Flower's process, by name and keywords: another version might load elsewhere."""
    import inspect

    source = inspect.getsource(run_clientapp)
    assert source.count("get_load_client_app_fn(") == 1
    assert source.count("load_app(") == 0
