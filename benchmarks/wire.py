"""Two hosts on this machine, joined by a wire that delays, loses and can be cut.

    python benchmarks/wire.py [--delay 0.15] [--loss 0.05] [--count 400]

needs root on Linux. Each host is a network namespace of its own, so nothing that runs in one
reaches the other, or anything else, but through the wire: a TUN device at either end, and this
process between them, which holds each packet back for `delay` and throws away a share of them. It
stands in for netem of tc where the kernel has none; what it drops, TCP sends again. The command
sends datagrams that are echoed, and prints how many came back, and when.
"""

import argparse
import fcntl
import heapq
import itertools
import os
import random
import selectors
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
ECHO = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as echo:
    echo.bind((sys.argv[1], 7))
    print("ready", flush=True)
    while True:
        data, sender = echo.recvfrom(2048)
        echo.sendto(data, sender)
"""
ASK = """
import socket, statistics, struct, sys, time
address, count = sys.argv[1], int(sys.argv[2])
took = {}
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
    asking.settimeout(0.02)
    until = time.monotonic() + 60
    for number in range(count + 150):
        if number < count:
            asking.sendto(struct.pack("!id", number, time.monotonic()), (address, 7))
        try:
            back, sent = struct.unpack("!id", asking.recv(64))
            took[back] = time.monotonic() - sent
        except TimeoutError:
            pass
        if len(took) == count or time.monotonic() > until:
            break
print(len(took) / count, statistics.median(took.values()) if took else float("nan"))
"""
ADDRESSES = ("10.213.7.1", "10.213.7.2")
MTU = 1500


def why_not() -> str:
    """Return what is missing for a wire on this machine; nothing if all is there."""
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    if shutil.which("ip") is None:
        return "needs the program ip (iproute2)"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    tried = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    return "may not make network namespaces" if tried.returncode else ""


class Wire:
    """The two hosts, `near` and `far`, and the wire between them; a context manager.

    `delay`: seconds, each way. `loss`: the share of packets that vanish, each way.
    """

    def __init__(self, delay: float = 0.0, loss: float = 0.0, seed: int = 0) -> None:
        self.delay, self.loss, self.is_cut = delay, loss, False
        self.carried = self.dropped = 0
        self.hosts = tuple(f"fedsim-{os.getpid()}-{side}" for side in ("near", "far"))
        self._random, self._count = random.Random(seed), itertools.count()
        self._ends: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> "Wire":
        try:
            for index, host in enumerate(self.hosts):
                self._host(index, host)
        except BaseException:
            self._remove()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._remove()

    def on(self, side: int, *command: object) -> list[str]:
        """Return a command line that runs `command` on host 0 (near) or 1 (far)."""
        return ["ip", "netns", "exec", self.hosts[side], *map(str, command)]

    def _host(self, index: int, host: str) -> None:
        _ip("netns", "add", host)
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self._ends.append(end)
        device = f"fs{os.getpid()}x{index}"[:15]
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TUN | IFF_NO_PI))
        _ip("link", "set", device, "netns", host)
        _ip("-n", host, "address", "add", f"{ADDRESSES[index]}/30", "dev", device)
        _ip("-n", host, "link", "set", device, "mtu", str(MTU), "up")
        _ip("-n", host, "link", "set", "lo", "up")

    def _remove(self) -> None:
        for end in self._ends:
            os.close(end)
        self._ends.clear()
        for host in self.hosts:
            subprocess.run(["ip", "netns", "delete", host], capture_output=True, check=False)

    def _carry(self) -> None:
        """Move packets until the wire is taken down: in order, each when its time has come."""
        waiting: list[tuple[float, int, int, bytes]] = []  # due, tie breaker, end, packet
        with selectors.DefaultSelector() as selector:
            for index, end in enumerate(self._ends):
                selector.register(end, selectors.EVENT_READ, 1 - index)
            while not self._stop.is_set():
                now = time.monotonic()
                while waiting and waiting[0][0] <= now:
                    _, _, other, packet = heapq.heappop(waiting)
                    self._deliver(other, packet)
                pause = min(waiting[0][0] - now, 0.05) if waiting else 0.05
                for key, _ in selector.select(max(pause, 0.0)):
                    packet = os.read(key.fd, MTU + 64)
                    if self.is_cut or self._random.random() < self.loss:
                        self.dropped += 1
                    else:
                        due = time.monotonic() + self.delay
                        heapq.heappush(waiting, (due, next(self._count), key.data, packet))

    def _deliver(self, end: int, packet: bytes) -> None:
        if self.is_cut:
            self.dropped += 1
            return
        try:
            os.write(self._ends[end], packet)
            self.carried += 1
        except BlockingIOError:  # the device's queue is full: a real one drops, too
            self.dropped += 1


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def measure(wire: Wire, count: int) -> tuple[float, float]:
    """Return the share of `count` datagrams that came back, and the median of their round trips."""
    echo = wire.on(1, sys.executable, "-c", ECHO, ADDRESSES[1])
    with subprocess.Popen(echo, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        try:
            ask = wire.on(0, sys.executable, "-c", ASK, ADDRESSES[1], count)
            done = subprocess.run(ask, capture_output=True, text=True, check=True)
        finally:
            running.terminate()
    share, seconds = map(float, done.stdout.split())
    return share, seconds


def main() -> int:
    """Measure a wire."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.15)
    parser.add_argument("--loss", type=float, default=0.05)
    parser.add_argument("--count", type=int, default=400)
    options = parser.parse_args()
    if missing := why_not():
        sys.stderr.write(f"{missing}\n")
        return 3
    with Wire(options.delay, options.loss) as wire:
        share, seconds = measure(wire, options.count)
        print(f"came back {share:.1%}, median round trip {seconds * 1000:.0f} ms", end="; ")
        print(f"packets carried {wire.carried}, dropped {wire.dropped}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
