"""Model, data and training: what every PyTorch app has."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn


class Net(nn.Module):
    """Two dense layers on 8x8 digits."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(64, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        """Return logits [n, 10]."""
        return self.head(torch.relu(self.hidden(x)))


def load_data(partition_id, num_partitions):
    """Return one client's share of the digits."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))[partition_id::num_partitions]
    return torch.tensor(x[order] / 16, dtype=torch.float32), torch.tensor(y[order])


def train(net, data, epochs, lr, seed):
    """Train in batches of 32; return the last loss."""
    x, y = data
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(32):
            optimizer.zero_grad()
            loss = criterion(net(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
    return loss.item()


def test(net, data):
    """Return (loss, accuracy)."""
    x, y = data
    with torch.no_grad():
        logits = net(x)
    return nn.functional.cross_entropy(logits, y).item(), (
        logits.argmax(1) == y
    ).float().mean().item()
