"""Salt's ``test.ping`` on a master and some minions of its own, all on this machine. Runs under Salt's own Python.

``SALT-VENV/bin/python benchmarks/salt_ping.py FOLDER MINIONS ROUNDS`` starts them in FOLDER, waits until every minion
answers, and prints a line of JSON a round: the seconds to the first answer and to the last. Salt is Python too, with
ZeroMQ and AES between master and minions; a minion is a process, which is why they do not fit by the hundred.
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

READY_S_MAX = 180.0


def main(folder: pathlib.Path, minions: int, rounds: int) -> int:
    import salt.client

    with contextlib.ExitStack() as stack:
        publish, answer = _free(), _free()
        master = _configured(
            folder / "master",
            "master",
            {"interface": "127.0.0.1", "publish_port": publish, "ret_port": answer, "auto_accept": True}
            | {"worker_threads": 2, "timeout": 20, "gather_job_timeout": 20, "enable_ssh_minions": False},
        )
        _start(stack, "salt-master", master.parent)
        for number in range(minions):
            options = {"master": "127.0.0.1", "master_port": answer, "publish_port": publish, "id": f"m{number}"}
            minion = _configured(folder / f"minion-{number}", "minion", options | {"multiprocessing": False})
            _start(stack, "salt-minion", minion.parent)
        until = time.monotonic() + READY_S_MAX
        while True:
            client = salt.client.LocalClient(c_path=str(master))  # anew: it reads the master's key when it is made
            answers = _asked(client, minions)[2]
            if answers == minions:
                break
            if time.monotonic() > until:
                print(f"{answers} of {minions} minions came within {READY_S_MAX:.0f} s", file=sys.stderr)
                return 1
            time.sleep(1)
        for _ in range(rounds):
            first, last, answers = _asked(client, minions)
            if answers == minions:
                print(json.dumps({"first": first, "last": last}), flush=True)
    return 0


def _asked(client, minions: int) -> tuple[float, float, int]:
    began = time.perf_counter()
    first = last = 0.0
    answers = 0
    with contextlib.suppress(Exception):  # the master is not up yet
        for found in client.cmd_iter("*", "test.ping", timeout=10):
            if any(answer.get("ret") is True for answer in found.values()):
                answers += 1
                last = time.perf_counter() - began
                first = first or last
            if answers == minions:
                break
    return first, last, answers


def _configured(folder: pathlib.Path, name: str, options: dict) -> pathlib.Path:
    folder.mkdir(parents=True)
    usual = {"root_dir": str(folder), "log_level": "quiet", "log_level_logfile": "quiet", "log_file": "log"}
    usual |= {"pki_dir": "pki", "cachedir": "cache", "sock_dir": str(folder / "sock"), "pidfile": "pid"}
    file = folder / name
    file.write_text(json.dumps(usual | options))  # JSON is YAML
    return file


def _start(stack: contextlib.ExitStack, program: str, folder: pathlib.Path) -> None:
    command = [str(pathlib.Path(sys.executable).with_name(program)), "-c", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    stack.callback(_stop, process)


def _stop(process: subprocess.Popen) -> None:
    """It and the processes that it started."""
    for number, patience_s in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(patience_s)


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
