"""`fedsim new`: a commented experiment and a model of one's own to start from."""

__all__ = ["template"]

_EXPERIMENT = """\
# {name}: run it with `fedsim run {name}/experiment.toml`, try any change with key=value after it:
#   fedsim run {name}/experiment.toml rounds.count=5 strategy.name=fedadam
# What a part is and which fields it has: `fedsim explain fedadam`. What would run: `fedsim plan`.
name = "{name}"
seed = 1

[data]
name = "digits"          # `fedsim data list`; or your own file:
# path = "patients.csv"  # relative to this file
# target = "outcome"

[partition]              # how examples are dealt out to clients
name = "dirichlet"       # label skew; or iid, pathological, shards, quantity, natural
clients = 20
alpha = 0.5              # smaller is more skewed
# by = "hospital"        # for a table: one client per value of this column

[model]
name = "model:build"     # the function `build` in model.py, beside this file
args = {{ hidden = 64 }}

[local]                  # what a client does in a round
name = "sgd"             # or fedprox
epochs = 2
batch_size = 16

[optimizer]
name = "sgd"             # or gd, adagrad, rmsprop, adam, adamw
lr = 0.1

[strategy]               # what the server does with the sum of the updates
name = "fedavg"          # or fedavgm, fedadam, fedyogi, fedadagrad, flower

[rounds]
count = 20
# cohort = 10            # clients asked per round; all of them when unset

[evaluation]
central_every = 1
federated_every = 5

[engine]
grid = "ray"             # or "inprocess"; results are the same, bit for bit
"""

_MODEL = '''\
"""The model of this experiment: any function that returns an `nn.Module`."""

from torch import nn


def build(meta, hidden):
    """`meta` describes the data (input_shape, outputs); the rest are `model.args`."""
    inputs = 1
    for size in meta.input_shape:
        inputs *= size
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, meta.outputs),
    )
'''


def template(name: str) -> tuple[str, str]:
    """Return (experiment.toml, model.py) of a new experiment."""
    return _EXPERIMENT.format(name=name), _MODEL
