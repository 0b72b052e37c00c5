#!/usr/bin/env python3
"""The batched example `text-embeddings` on a GPU, beside the official worker with the same model in PyTorch.

Runs where there are a CUDA GPU and Python with PyTorch 2.11 and tokenizers; no network and no other package is needed. Release programs
come with it in `bin` (tests/gpu/pack.sh packs them). Each worker in turn takes the same jobs from the same endpoint. It prints jobs and texts
a second, how busy the GPU was, and its memory, and writes them to a JSON file with hardware, versions and date. It ends with an error if
a job fails or if the two workers disagree about a text.

Without a GPU, `--device cpu` does everything but the launch of kernels on one; `--quick` makes it short.
"""

import argparse
import collections
import contextlib
import datetime
import http.client
import json
import multiprocessing
import os
import pathlib
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
SHORT = "A man is eating food."
PARAGRAPH = (
    "A serverless worker takes a job from the queue, runs it on the accelerator and posts the result. While the job is running, the "
    "worker tells the platform that it is alive. If the process dies, the job is given to another worker, and the caller never learns "
    "that anything went wrong."
)
# How long a program may take to start and to load its model.
PATIENCE = 180
# How often the use of the GPU is looked at, in seconds.
SAMPLE = 0.2
# Both workers round differently in half precision; vectors of different texts are far below this.
LEAST_COSINE = 0.99

Work = collections.namedtuple("Work", "name texts callers")
Service = collections.namedtuple("Service", "name endpoint command environment")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--precision", choices=["f32", "f16", "bf16"], default="f16")
    parser.add_argument("--seconds", type=float, default=10, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each worker, in turns")
    parser.add_argument("--quick", action="store_true", help="one short measurement with few callers")
    parser.add_argument("--only", choices=["ours", "official"], help="leave the other worker out")
    parser.add_argument("--bin", type=pathlib.Path, default=HERE / "bin", help="the folder of our programs")
    parser.add_argument("--model", type=pathlib.Path, default=HERE / "model", help="the folder of the model")
    parser.add_argument("--site", type=pathlib.Path, default=HERE / "site", help="the folder of the official worker's packages")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gpu-bench.json"))
    return parser.parse_args()


def main():
    options = parse()
    if options.quick:
        options.seconds, options.rounds = 1, 1
    works = [Work("one short text", (SHORT,), 64), Work("32 paragraphs", (PARAGRAPH,) * 32, 16)]
    if options.quick:
        works = [Work("one short text", (SHORT,), 4), Work("4 paragraphs", (PARAGRAPH,) * 4, 2)]
    weights = options.model / "model.safetensors"
    if not weights.exists():
        subprocess.run([sys.executable, HERE / "weights.py", "seeded", options.model, weights], check=True)
    vectors, figures = {}, {}
    with tempfile.TemporaryDirectory() as folder, Endpoint(options, pathlib.Path(folder)) as endpoint:
        services = list(choose(options, works))
        for _ in range(options.rounds):
            for service in services:
                with endpoint.worker(service) as worker:
                    vectors[service.name] = check(endpoint, service, worker)
                    for work in works:
                        figure = measure(options, endpoint, service, work, worker)
                        figures.setdefault((service.name, *work), []).append(figure)
    agreement = least_cosine(vectors)
    report(options, [row(name, Work(*work), measured) for (name, *work), measured in figures.items()], agreement)
    if agreement is not None and agreement < LEAST_COSINE:
        sys.exit(f"the workers disagree about a text: cosine {agreement:.4f}, at least {LEAST_COSINE} is expected")


def choose(options, works):
    ours = {
        "TEXT_EMBEDDINGS_MODEL_DIR": str(options.model),
        "TEXT_EMBEDDINGS_PRECISION": options.precision,
        "RUNPOD_WORKER_LOG_LEVEL": "warn",
    }
    if libraries := torch_libraries():
        ours["LD_LIBRARY_PATH"] = libraries
    run = [options.bin / "runpod-worker", "run", "--http-bind", f"127.0.0.1:{free_port()}", "--device", options.device]
    if options.only != "official":
        yield Service("runpod-worker", "ours", [*run, "--", options.bin / "text-embeddings"], ours)
    if options.only == "ours":
        return
    packages = [str(options.site), os.environ.get("PYTHONPATH", "")]
    for concurrency in [1, works[0].callers]:
        official = {
            "PYTHONPATH": os.pathsep.join(filter(None, packages)),
            "OFFICIAL_MODEL": str(options.model),
            "OFFICIAL_DEVICE": options.device,
            "OFFICIAL_PRECISION": options.precision,
            "OFFICIAL_CONCURRENCY": str(concurrency),
            "RUNPOD_SKIP_GPU_CHECK": "true",
            "RUNPOD_DEBUG_LEVEL": "ERROR",
        }
        name = f"official worker, concurrency {concurrency}"
        yield Service(name, f"official-{concurrency}", [sys.executable, HERE / "official.py"], official)


def torch_libraries():
    """The folder of PyTorch's libraries, without loading them: our programs are linked with the same release."""
    look = "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
    found = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout.strip()
    return str(pathlib.Path(found) / "lib") if found else None


class Endpoint:
    """A local endpoint that both workers take jobs from, each on an endpoint id of its own."""

    def __init__(self, options, folder):
        self.options, self.folder, self.port = options, folder, free_port()

    def __enter__(self):
        command = [self.options.bin / "runpod-endpoint", "serve", "--bind", f"127.0.0.1:{self.port}"]
        self.program = Program("endpoint", command, {}, self.folder)
        self.program.wait_for("the endpoint to answer", lambda: self.request("GET", "/v2/ours/health")[0] == 200)
        return self

    def __exit__(self, *_):
        self.program.stop()

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")

    @contextlib.contextmanager
    def worker(self, service):
        base = f"http://127.0.0.1:{self.port}/v2/{service.endpoint}"
        # As the platform sets them.
        environment = {
            "RUNPOD_POD_ID": "worker-1",
            "RUNPOD_AI_API_KEY": "any",
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=LOCAL",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=LOCAL",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID?gpu=LOCAL",
            "RUNPOD_PING_INTERVAL": "10000",
            # The machine is measured here, not checked.
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_WORKER_SPOOL_DIR": str(self.folder / "spool"),
        }
        program = Program(service.name, service.command, environment | service.environment, self.folder)
        try:
            yield program
        finally:
            program.stop()

    def run(self, service, texts):
        status, answer = self.request("POST", f"/v2/{service.endpoint}/runsync", body(texts))
        while answer.get("status") in ("IN_QUEUE", "IN_PROGRESS"):
            status, answer = self.request("GET", f"/v2/{service.endpoint}/status-sync/{answer['id']}")
        if status != 200 or answer.get("status") != "COMPLETED":
            raise SystemExit(f"{service.name}: a job failed: {answer}")
        return answer["output"]["embeddings"]


class Program:
    """A child process in a group of its own, with its output in a file."""

    def __init__(self, name, command, environment, folder):
        self.name = name
        self.log = folder / f"{name.replace(' ', '-')}.log"
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                command, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def check_running(self):
        if self.child.poll() is not None:
            raise SystemExit(f"{self.name} has ended with {self.child.returncode}:\n{self.log.read_text()}")

    def wait_for(self, what, is_so):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.check_running()
            with contextlib.suppress(OSError):
                if is_so():
                    return
            time.sleep(0.05)
        raise SystemExit(f"gave up after {PATIENCE} s waiting for {what}:\n{self.log.read_text()}")

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()


def check(endpoint, service, worker):
    """The vectors of a few texts, which shows that the model is loaded."""
    result = []
    asker = threading.Thread(target=lambda: result.append(endpoint.run(service, [SHORT, PARAGRAPH, "Rust"])), daemon=True)
    asker.start()
    while asker.is_alive():
        worker.check_running()
        asker.join(0.1)
    if not result:
        raise SystemExit(f"{service.name} has not answered:\n{worker.log.read_text()}")
    return result[0]


def measure(options, endpoint, service, work, worker):
    """Jobs a second of callers who each wait for an answer before they ask again, and the use of the device meanwhile."""
    load(endpoint, service, work, options.seconds / 4)
    with Use(options.device) as use:
        jobs, seconds = load(endpoint, service, work, options.seconds)
    worker.check_running()
    return jobs / seconds, use.busy(), use.memory()


def load(endpoint, service, work, seconds):
    # Several processes: the interpreter's lock would make one of them the limit.
    processes = min(work.callers, max(1, (os.cpu_count() or 1) // 2), 8)
    callers = [work.callers // processes + (number < work.callers % processes) for number in range(processes)]
    path = f"/v2/{service.endpoint}/runsync"
    arguments = [(endpoint.port, path, body(work.texts), count, seconds) for count in callers]
    with multiprocessing.Pool(processes) as pool:
        counts = pool.starmap(call, arguments)
    # A process that starts late asks for as long as the others.
    return sum(count for count, _ in counts), statistics.mean(took for _, took in counts)


def call(port, path, text, callers, seconds):
    """In a process of its own: so many callers; returns their jobs, and how long they asked."""
    counts, problems = [0] * callers, []
    begin = time.monotonic()

    def ask(number):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            while time.monotonic() - begin < seconds:
                connection.request("POST", path, text)
                answer = json.loads(connection.getresponse().read())
                if answer.get("status") != "COMPLETED":
                    problems.append(str(answer)[:500])
                    return
                counts[number] += 1
        except Exception as error:  # noqa: BLE001: whatever it is, the run is void
            problems.append(repr(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise RuntimeError(problems[0])
    return sum(counts), time.monotonic() - begin


def body(texts):
    return json.dumps({"input": {"input": texts if len(texts) > 1 else texts[0]}})


class Use:
    """How busy the device is: the GPU by its driver, or the CPU by the kernel."""

    def __init__(self, device):
        self.device, self.samples = device, []

    def __enter__(self):
        if self.device == "cuda":
            query = ["nvidia-smi", "--id=0", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
            self.smi = subprocess.Popen([*query, f"--loop-ms={int(SAMPLE * 1000)}"], stdout=subprocess.PIPE, text=True)
            self.reader = threading.Thread(target=self.read, daemon=True)
            self.reader.start()
        else:
            self.before = cpu_times()
        return self

    def read(self):
        for line in self.smi.stdout:
            busy, memory = (part.strip() for part in line.split(","))
            if busy.isdigit() and memory.isdigit():
                self.samples.append((int(busy), int(memory)))

    def __exit__(self, *_):
        if self.device == "cuda":
            self.smi.terminate()
            self.smi.wait()
            self.reader.join()
        else:
            idle, total = (after - before for after, before in zip(cpu_times(), self.before))
            self.samples.append((100 * (1 - idle / max(total, 1)), None))

    def busy(self):
        return statistics.mean(sample[0] for sample in self.samples) if self.samples else None

    def memory(self):
        return max((sample[1] for sample in self.samples if sample[1] is not None), default=None)


def cpu_times():
    times = [int(word) for word in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return times[3] + times[4], sum(times)


def row(name, work, measured):
    rates = [rate for rate, _, _ in measured]
    busy = [use for _, use, _ in measured if use is not None]
    memory = [mib for _, _, mib in measured if mib is not None]
    return {
        "worker": name,
        "job": work.name,
        "callers": work.callers,
        "jobs_per_second": round(statistics.median(rates), 2),
        "spread": [round(min(rates), 2), round(max(rates), 2)],
        "texts_per_second": round(statistics.median(rates) * len(work.texts), 2),
        "device_busy_percent": round(statistics.median(busy), 1) if busy else None,
        "device_memory_mib": max(memory, default=None),
    }


def least_cosine(vectors):
    """Of the same text by two workers; their vectors have length 1. None if there is only one worker."""
    first, *others = vectors.values()
    cosines = [
        sum(a * b for a, b in zip(one, other)) for vectors in others for one, other in zip(first, vectors, strict=True)
    ]
    return min(cosines, default=None)


def report(options, rows, agreement):
    document = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "device": options.device,
        "precision": options.precision,
        "hardware": hardware(options.device),
        "least_cosine_between_workers": agreement and round(agreement, 6),
        "rows": rows,
    }
    options.out.write_text(json.dumps(document, indent=2) + "\n")
    print(f"\n{document['date']}, {', '.join(f'{key} {value}' for key, value in document['hardware'].items())}, {options.precision}\n")
    print("| worker | job | callers | jobs/s | spread | texts/s | device busy | device memory |")
    print("| --- | --- | ---: | ---: | --- | ---: | ---: | ---: |")
    for one in rows:
        busy = "–" if one["device_busy_percent"] is None else f"{one['device_busy_percent']:.0f} %"
        memory = "–" if one["device_memory_mib"] is None else f"{one['device_memory_mib']:,} MiB"
        low, high = one["spread"]
        print(
            f"| {one['worker']} | {one['job']} | {one['callers']} | {one['jobs_per_second']:,.1f} | {low:,.1f} to {high:,.1f} "
            f"| {one['texts_per_second']:,.0f} | {busy} | {memory} |"
        )
    if agreement is not None:
        print(f"\nThe workers agree about every text: cosine at least {agreement:.5f}.")
    print(f"\n{options.out}")


def hardware(device):
    cpu = pathlib.Path("/proc/cpuinfo").read_text().split("model name", 1)[-1].split("\n", 1)[0].strip(" \t:")
    known = {"cpu": f"{cpu}, {os.cpu_count()} cores", "system": platform.platform(), "python": platform.python_version()}
    version = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True, check=False
    )
    if version.returncode == 0:
        known["torch"] = version.stdout.strip()
    if device == "cuda":
        query = ["nvidia-smi", "--id=0", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        known["gpu"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    return known


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
