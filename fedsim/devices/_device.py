"""One device: what a task takes on it, in seconds and joules."""

from dataclasses import dataclass

__all__ = ["Device", "Spans", "Work"]


@dataclass(frozen=True, slots=True)
class Work:
    """What a client is to do: get so many bytes, go through so many examples, send so many bytes.

    `examples` counts an example each time it is computed; `flops`: forward and backward, of one.
    """

    down_bytes: float
    examples: float
    flops: float
    up_bytes: float


@dataclass(frozen=True, slots=True)
class Spans:
    """How long each part of a task takes: receiving, computing, sending."""

    down_s: float
    compute_s: float
    up_s: float

    @property
    def total_s(self) -> float:
        """How long the whole task takes."""
        return self.down_s + self.compute_s + self.up_s

    def until(self, limit_s: float) -> "Spans":
        """Return what of a task is done when it is broken off after so many seconds."""
        down = min(self.down_s, limit_s)
        compute = min(self.compute_s, limit_s - down)
        return Spans(down, compute, min(self.up_s, limit_s - down - compute))


@dataclass(frozen=True, slots=True)
class Device:
    """A client's device.

    `flops_per_s`: floating-point operations a second, at what training reaches. `example_s`: where
    a trace says how long one example takes, whatever the model: then that counts.
    """

    flops_per_s: float
    down_bytes_per_s: float
    up_bytes_per_s: float
    compute_watts: float
    down_watts: float
    up_watts: float
    waiting_watts: float = 0.0
    example_s: float | None = None

    def spans(self, work: Work) -> Spans:
        """Return how long a task takes.

        >>> device = Device(1e9, 1e6, 5e5, 4.0, 1.0, 2.0)
        >>> device.spans(Work(down_bytes=2e6, examples=100, flops=3e7, up_bytes=1e6))
        Spans(down_s=2.0, compute_s=3.0, up_s=2.0)
        """
        example_s = work.flops / self.flops_per_s if self.example_s is None else self.example_s
        return Spans(
            work.down_bytes / self.down_bytes_per_s,
            work.examples * example_s,
            work.up_bytes / self.up_bytes_per_s,
        )

    def joules(self, spans: Spans, waiting_s: float = 0.0) -> float:
        """Return the energy that a task takes, and waiting after it: time in each state x power."""
        busy = spans.down_s * self.down_watts + spans.compute_s * self.compute_watts
        return busy + spans.up_s * self.up_watts + waiting_s * self.waiting_watts
