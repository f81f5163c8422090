"""Facts of one machine → findings: home, process, ports, certificate, disk, memory, operator sets.

Pure. Owns the bounds below which something is told. Rules: a finding names what was found, what was expected, and a
next step that can be typed or done; nothing that merely differs is called wrong.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from peers.doctor.facts import (
    CertificateFacts,
    DiskFacts,
    HomeFacts,
    MemoryFacts,
    OpsetFacts,
    PortFacts,
    ProcessFacts,
)
from peers.doctor.findings import Finding, Level
from query.quantities import size_words

DISK_WRONG_BYTES: Final = 64 << 20  # an edge's store and a small model no longer fit
DISK_DOUBTFUL_BYTES: Final = 1 << 30
INODES_DOUBTFUL: Final = 1000
MEMORY_DOUBTFUL_BYTES: Final = 256 << 20
PROCESS_BYTES: Final = 256 << 20  # what a peer with the runtime takes before its first model
CERTIFICATE_DOUBTFUL_S: Final = 5 * 86_400.0  # renewal begins with ten days left
SHOWN_MAX: Final = 5

_LEVELS: Final[dict[str, Level]] = {"loose_mode": "wrong", "left_over": "note", "misplaced_key": "wrong"}


def judge_home(facts: HomeFacts) -> Iterator[Finding]:
    if facts.problem is not None:
        yield Finding("wrong", facts.problem.code, facts.problem.message, facts.problem.hint or "")
    if facts.settings_problem is not None:
        problem = facts.settings_problem
        advice = problem.hint or f"correct it in {facts.path}/peerage.toml, or in the environment"
        yield Finding("wrong", problem.code, problem.message, advice)
    for found in facts.found:
        advice = f"peerage fsck --home {facts.path} --repair would {found.remedy}" if found.remedy else ""
        advice = "; ".join(part for part in (advice, found.advice) if part)
        message = f"{found.thing}: expected {found.expected}, found {found.found}"
        yield Finding(_LEVELS.get(found.kind, "wrong"), found.kind, message, advice)
    if facts.autonomous:
        yield Finding(
            "note",
            "autonomous",
            "this edge is AUTONOMOUS: it dials nobody, so nothing beyond this device was looked at",
            f'"peerage mode ONLINE --home {facts.path}" leaves the mode',
        )


def judge_process(facts: ProcessFacts) -> Iterator[Finding]:
    if facts.kind == "client":
        return
    if facts.pid is None:
        yield Finding(
            "wrong",
            "peer_stopped",
            f"no peer runs in {facts.home}: expected its {facts.kind}",
            f"start it: peerage {facts.kind} --home {facts.home}",
        )
        return
    if facts.problem is not None:
        yield Finding(
            "wrong",
            "peer_not_answering",
            f"process {facts.pid} holds {facts.home} and does not answer: {facts.problem.message}",
            f"look at its log; if it hangs, end it (kill {facts.pid}) and start it again",
        )
    elif facts.version and facts.installed and facts.version != facts.installed:
        yield Finding(
            "doubtful",
            "restart_needed",
            f"process {facts.pid} runs peerage {facts.version}, and {facts.installed} is installed",
            f"start it again: peerage {facts.kind} --home {facts.home}",
        )


def judge_port(facts: PortFacts) -> Iterator[Finding]:
    """Whether a peer that starts now could listen there."""
    if facts.number == 0 or facts.held_by_us:
        return
    where = f"{facts.host}:{facts.port}"
    flag = "--" + facts.setting.replace("_", "-")
    if facts.number == errno.EADDRINUSE:
        by = f"by {facts.holder}" if facts.holder else "by another process"
        yield Finding(
            "wrong",
            "port_taken",
            f"{facts.setting}: {where} is taken {by}",
            f"stop that, or choose another port: {facts.setting} in peerage.toml, {flag}, or 0 for any free one",
        )
    elif facts.number in (errno.EADDRNOTAVAIL, errno.EAI_NONAME if hasattr(errno, "EAI_NONAME") else -1):
        host_setting = facts.setting.replace("_port", "_host")
        yield Finding(
            "wrong",
            "wrong_interface",
            f"{host_setting}: {facts.host} is no address of this device",
            f'set {host_setting} to an address that "ip address" shows, 127.0.0.1 or 0.0.0.0',
        )
    elif facts.number in (errno.EACCES, errno.EPERM):
        yield Finding(
            "wrong",
            "port_forbidden",
            f"{facts.setting}: this user may not listen on {where}",
            "choose a port from 1024 on",
        )
    else:
        yield Finding(
            "wrong",
            "port_unusable",
            f"{facts.setting}: {where} cannot be listened on: {os.strerror(facts.number)}",
            f"choose another address or port for {facts.setting}",
        )


def judge_certificate(facts: CertificateFacts) -> Iterator[Finding]:
    """By federation time: that is what counts when a certificate is judged."""
    now = facts.now + facts.federation_offset_s
    if now > facts.not_after:
        yield Finding(
            "wrong",
            "certificate_expired",
            f"this peer's certificate ended at {moment(facts.not_after)}",
            "it is renewed by itself when the peer next reaches its nameserver; one that was removed joins again",
        )
    elif now < facts.not_before:
        yield Finding(
            "wrong",
            "certificate_not_yet_valid",
            f"this peer's certificate begins at {moment(facts.not_before)}, and this device's clock says "
            f"{moment(facts.now)}",
            "set this device's clock: timedatectl set-ntp true",
        )
    elif facts.not_after - now < CERTIFICATE_DOUBTFUL_S:
        days = (facts.not_after - now) / 86_400.0
        yield Finding(
            "doubtful",
            "certificate_ending",
            f"this peer's certificate ends in {days:.1f} days, at {moment(facts.not_after)}, and was not renewed",
            "let the peer reach its nameserver: certificates are renewed with ten days left",
        )


def judge_disk(facts: DiskFacts) -> Iterator[Finding]:
    left = f"{size_words(facts.free_bytes)} of {size_words(facts.total_bytes)} are free under {facts.path}"
    if facts.read_only:
        yield Finding(
            "wrong",
            "disk_read_only",
            f"{facts.path} lies on a file system that is mounted read-only",
            "a disk with errors is mounted so by the kernel: see dmesg; else mount it again with rw",
        )
    elif not facts.writable:
        yield Finding(
            "wrong",
            "home_not_writable",
            f"this user may not write in {facts.path}",
            "run the peer, and the doctor, as the user that the home belongs to",
        )
    if facts.free_bytes < DISK_WRONG_BYTES:
        yield Finding(
            "wrong",
            "disk_full",
            f"{left}: expected {size_words(DISK_WRONG_BYTES)}",
            f'make room: "peerage gc --home {facts.path}" removes what nothing names; old logs and backups go first',
        )
    elif facts.free_bytes < DISK_DOUBTFUL_BYTES:
        yield Finding(
            "doubtful", "disk_low", left, f'make room, or see what may go: "peerage gc --home {facts.path} --dry-run"'
        )
    if facts.inodes and facts.inodes_free < INODES_DOUBTFUL:
        yield Finding(
            "wrong" if facts.inodes_free == 0 else "doubtful",
            "no_inodes",
            f"{facts.inodes_free} of {facts.inodes} files more can be made under {facts.path}",
            "remove many small files; df -i shows where they are",
        )


def judge_memory(facts: MemoryFacts) -> Iterator[Finding]:
    whole = min(facts.total_bytes, facts.limit_bytes or facts.total_bytes)
    whose = "this device has" if whole == facts.total_bytes else "the control group of this process allows"
    if facts.models_bytes_max + PROCESS_BYTES > whole:
        fits = max(whole - PROCESS_BYTES, 64 << 20)
        yield Finding(
            "doubtful",
            "memory_bytes_max_too_high",
            f"memory_bytes_max allows models {size_words(facts.models_bytes_max)}, and {whose} {size_words(whole)}",
            f"set memory_bytes_max = {fits} in peerage.toml, so that a model too many is refused and not killed",
        )
    if facts.available_bytes < MEMORY_DOUBTFUL_BYTES:
        swap = f", and {size_words(facts.swap_free_bytes)} of swap" if facts.swap_free_bytes else ""
        yield Finding(
            "doubtful",
            "memory_low",
            f"{size_words(facts.available_bytes)} of memory are available{swap}: expected "
            f"{size_words(MEMORY_DOUBTFUL_BYTES)} for a model's trial",
            "unload what is not needed (models:unload), or see who holds it: ps --sort -rss -eo rss,pid,comm",
        )


def judge_opsets(facts: OpsetFacts) -> Iterator[Finding]:
    for label, opset in facts.models.items():
        beyond = {
            domain: version
            for domain, version in opset.items()
            if domain in facts.supported and version > facts.supported[domain]
        }
        if beyond:
            told = ", ".join(f"{domain} {version}" for domain, version in sorted(beyond.items()))
            known = ", ".join(f"{domain} {facts.supported[domain]}" for domain in sorted(beyond))
            yield Finding(
                "wrong",
                "opset_unsupported",
                f"{label} needs {told}: {facts.runtime or 'the runtime here'} knows up to {known}",
                "upgrade peerage and onnxruntime on this device, or export the model for an older operator set",
            )
    for told in facts.failed[:SHOWN_MAX]:
        yield Finding(
            "wrong",
            "opset_unsupported",
            told,
            "upgrade peerage and onnxruntime on that edge, or export the model for an older operator set",
        )
    if len(facts.failed) > SHOWN_MAX:
        yield Finding("wrong", "opset_unsupported", f"and {len(facts.failed) - SHOWN_MAX} edges and models more")


def moment(seconds: float) -> str:
    """A moment for people, in UTC."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} s after 1970"
