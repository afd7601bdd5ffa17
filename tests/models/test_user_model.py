import pytest
import torch
from torch import nn

from fedsim import models
from fedsim.data import Meta
from fedsim.errors import ConfigError
from fedsim.models import UserModel

META = Meta("made", "classification", (4,), 3, "")
SOURCE = """
from torch import nn

number = 3

def plain(width=5):
    return nn.Linear(4, width)

def informed(meta, bias=True):
    return nn.Linear(meta.input_shape[0], meta.outputs, bias=bias)

def wrong():
    return "a model"

def empty():
    return nn.ReLU()

def broken():
    raise TypeError("inside")
"""


@pytest.fixture(autouse=True)
def user_code(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(SOURCE)
    (tmp_path / "my_mistake.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_a_function_is_called_with_its_arguments():
    module = models.build(UserModel("my_models:plain", {"width": 2}), META, seed=0)
    assert module.weight.shape == (2, 4)


def test_a_function_that_asks_for_meta_gets_it():
    module = models.build(UserModel("my_models:informed", {"bias": False}), META, seed=0)
    assert module.weight.shape == (3, 4)
    assert module.bias is None


def test_a_class_of_a_library_works_too():
    part = UserModel("torch.nn:Linear", {"in_features": 4, "out_features": 3})
    first, again = (models.build(part, META, seed=5) for _ in range(2))
    assert isinstance(first, nn.Linear)
    assert torch.equal(models.get_vector(first), models.get_vector(again))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (UserModel("no_such_module:f"), "importing no_such_module raised ModuleNotFoundError"),
        (UserModel("my_mistake:f"), "importing my_mistake raised ZeroDivisionError"),
        (UserModel("my_models:absent"), "my_models has no 'absent'"),
        (UserModel("my_models:number"), "my_models has, but not to be called, 'number'"),
        (UserModel(":f"), "module:function, both named"),
        (UserModel("my_models:"), "module:function, both named"),
        (UserModel("my_models:plain", {"widht": 2}), "unexpected keyword argument 'widht'"),
        (UserModel("my_models:wrong"), "returns an nn.Module, not str"),
        (UserModel("my_models:broken"), "calling it raised TypeError: inside"),
        (UserModel("my_models:empty"), "a model with parameters; this has none"),
    ],
)
def test_what_goes_wrong_is_said(part, message):
    with pytest.raises(ConfigError) as caught:
        models.build(part, META, seed=0)
    (problem,) = caught.value.problems
    assert problem.path == "model.name"
    assert problem.value == part.name
    assert message in str(problem)
