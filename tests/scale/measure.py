#!/usr/bin/env python3
"""The constants of docs/scale.md: what one request, one job, one byte and one idle worker cost the endpoint.

    tests/scale/measure.py [--bin target/release] [STORE…]

STORE is `memory`, `file` or a URL `postgres://…` of an empty database; without any, memory and file are measured. Clients run in processes
of their own, and only the processor time and memory of the endpoint are counted. Where a store waits for a disk or a database, the number
of jobs a second is printed too. Needs nothing but Python; two minutes for each store.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import pathlib
import resource
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time

TICK = os.sysconf("SC_CLK_TCK")
CALLERS = 16
IDLE_WORKERS = 1000
# As a worker of this project: one request for jobs and one for stop signals are held, and a heartbeat is sent.
HEARTBEAT = 10
KILOBYTE = json.dumps("x" * 998)
MEGABYTE = json.dumps("x" * 999_998)
PREFIX = "/v2/scale"
# By worker, in the process of a caller.
RUNNING = {}


class Connection:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, method, path, body=""):
        self.socket.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    def receive(self):
        data = bytearray()
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self.more()
        head = bytes(data[:end]).lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0]) if b"content-length: " in head else 0
        while len(data) < end + 4 + length:
            data += self.more()
        return int(head.split(b" ")[1]), bytes(data[end + 4 :])

    def more(self):
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the endpoint closed the connection")
        return data

    def ask(self, method, path, body=""):
        self.send(method, path, body)
        return self.receive()


class Endpoint:
    def __init__(self, program, store, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [program, "serve", "--bind", f"127.0.0.1:{self.port}", "--max-connections", "10000", "--log-level", "warn"]
        if store == "file":
            command += ["--data", f"{folder}/jobs.db"]
        elif store != "memory":
            command += ["--database", store]
        self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def __enter__(self):
        for _ in range(200):
            with contextlib.suppress(OSError):
                Connection(self.port).ask("GET", f"{PREFIX}/health")
                return self
            time.sleep(0.05)
        raise SystemExit("the endpoint does not answer")

    def __exit__(self, *_):
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()

    def cpu(self):
        """Seconds of processor time so far."""
        fields = pathlib.Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def resident(self):
        status = pathlib.Path(f"/proc/{self.child.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024


def work(port, what, number, jobs, out):
    """In a process of its own: does something so often, and says so."""
    connection = Connection(port)
    for job in range(jobs):
        what(connection, f"w{number}", job)
    out.send(jobs)


def ping(connection, worker, _):
    expect(connection.ask("GET", f"{PREFIX}/ping/{worker}"), 200)


def submit(connection, _worker, _job, body=KILOBYTE):
    expect(connection.ask("POST", f"{PREFIX}/run", f'{{"input":{body}}}'), 200)


def cycle(connection, worker, _job, body=KILOBYTE):
    """A worker takes a job and delivers its result."""
    answer = expect(connection.ask("GET", f"{PREFIX}/job-take/{worker}"), 200)
    job = json.loads(answer)["id"]
    expect(connection.ask("POST", f"{PREFIX}/job-done/{worker}/{job}?isStream=false", f'{{"output":{body}}}'), 200)


def large(connection, worker, job):
    submit(connection, worker, job, MEGABYTE)
    cycle(connection, worker, job, MEGABYTE)


def running(connection, worker, first):
    """The id of a job that this worker runs: its first one."""
    if first:
        submit(connection, worker, None)
        RUNNING[worker] = json.loads(expect(connection.ask("GET", f"{PREFIX}/job-take/{worker}"), 200))["id"]
    return RUNNING[worker]


def status(connection, worker, number):
    job = running(connection, worker, number == 0)
    expect(connection.ask("GET", f"{PREFIX}/status/{job}"), 200)


def item(connection, worker, number):
    job = running(connection, worker, number == 0)
    expect(connection.ask("POST", f"{PREFIX}/job-stream/{worker}/{job}", f'{{"output":{KILOBYTE}}}'), 200)


def expect(answer, status):
    if answer[0] != status:
        raise SystemExit(f"{answer[0]} instead of {status}: {answer[1][:300]}")
    return answer[1]


def cost(endpoint, what, jobs):
    """Milliseconds of the endpoint's processor time for one, and how many a second."""
    ours, theirs = multiprocessing.Pipe()
    each = jobs // CALLERS
    callers = [
        multiprocessing.Process(target=work, args=(endpoint.port, what, number, each, theirs)) for number in range(CALLERS)
    ]
    before, begin = endpoint.cpu(), time.monotonic()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
        if caller.exitcode:
            raise SystemExit(f"{what.__name__} failed")
    seconds = time.monotonic() - begin
    done = sum(ours.recv() for _ in callers)
    return (endpoint.cpu() - before) / done * 1000, done / seconds


def idle(endpoint, seconds):
    """Bytes for one idle worker, and its share of one core in per cent."""
    before = endpoint.resident()
    held = []
    for number in range(IDLE_WORKERS):
        take, stop, beat = (Connection(endpoint.port) for _ in range(3))
        paths = {take: f"{PREFIX}/job-take/idle{number}", stop: f"{PREFIX}/job-stop/idle{number}"}
        for connection, path in paths.items():
            connection.send("GET", path)
        held.append((paths, beat, number))
    over = threading.Event()
    poller = threading.Thread(target=poll_again, args=([paths for paths, *_ in held], over))
    poller.start()
    time.sleep(2)
    size, cpu, begin = endpoint.resident(), endpoint.cpu(), time.monotonic()
    # Spread over the interval, as workers that were started one after the other. Nobody waits for an answer but the worker that asked.
    asked = set()
    while time.monotonic() - begin < seconds:
        for _paths, beat, number in held:
            if number in asked:
                expect(beat.receive(), 200)
            beat.send("GET", f"{PREFIX}/ping/idle{number}")
            asked.add(number)
            time.sleep(HEARTBEAT / IDLE_WORKERS * 0.9)
    share = (endpoint.cpu() - cpu) / (time.monotonic() - begin)
    over.set()
    poller.join()
    return (size - before) / IDLE_WORKERS, share / IDLE_WORKERS * 100


def poll_again(all_paths, over):
    """Repeats each held request as soon as it ends."""
    known = {connection.socket.fileno(): (connection, path) for paths in all_paths for connection, path in paths.items()}
    watch = select.epoll()
    for number in known:
        watch.register(number, select.EPOLLIN)
    while not over.is_set():
        for number, _ in watch.poll(0.2):
            connection, path = known[number]
            connection.receive()
            connection.send("GET", path)


def measure(program, store, count, seconds):
    name = store if store in ("memory", "file") else "postgres"
    with tempfile.TemporaryDirectory(dir=pathlib.Path(program).parent) as folder, Endpoint(program, store, folder) as endpoint:
        small = endpoint.resident()
        rows = [("a heartbeat", *cost(endpoint, ping, count))]
        rows.append(("a job of 1 kB: accepted", *cost(endpoint, submit, count)))
        queued = (endpoint.resident() - small) / count
        rows.append(("a job of 1 kB: taken and done", *cost(endpoint, cycle, count)))
        rows.append(("a status", *cost(endpoint, status, count)))
        rows.append(("an item of a stream, 1 kB", *cost(endpoint, item, count)))
        rows.append(("a job of 1 MB in and out: all of it", *cost(endpoint, large, 320)))
        print(f"\n| {name} | processor time of the endpoint, ms | a second, {CALLERS} callers |\n| --- | ---: | ---: |")
        for what, milliseconds, rate in rows:
            print(f"| {what} | {milliseconds:.3f} | {rate:,.0f} |", flush=True)
        print(f"\nmemory for a queued job of 1 kB: {queued:,.0f} B")
    with tempfile.TemporaryDirectory(dir=pathlib.Path(program).parent) as folder, Endpoint(program, store, folder) as endpoint:
        size, share = idle(endpoint, seconds)
        print(f"an idle worker: {size:,.0f} B, {share:.4f} % of one core; three connections")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("target/release"))
    parser.add_argument("--count", type=int, default=8000, help="requests of each kind")
    parser.add_argument("--seconds", type=float, default=25, help="for which idle workers are watched")
    parser.add_argument("store", nargs="*", default=["memory", "file"])
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    cpu = pathlib.Path("/proc/cpuinfo").read_text().split("model name", 1)[-1].split("\n", 1)[0].strip(" \t:")
    print(f"{os.cpu_count()} cores of {cpu}")
    for store in options.store:
        measure(options.bin.resolve() / "runpod-endpoint", store, options.count, options.seconds)


if __name__ == "__main__":
    main()
