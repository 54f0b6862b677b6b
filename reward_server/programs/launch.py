"""The process around one program: it gives up everything that the program must not have, and then runs it.

Started as a script by `sandbox`, with a JSON object on standard input; answers with one on standard output. It uses
Linux namespaces, which need no root: a user namespace without capabilities, no network, no other processes, no
processes that outlive it, and file systems that are read-only but for an empty folder in memory.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 0x4000, 0x40000
_AT_FDCWD, _AT_RECURSIVE, _ATTR_RDONLY = -100, 0x8000, 1
_SYS_MOUNT_SETATTR = 442
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_INSIDE_ID = 1000
"""Of the program's user in its namespace: not 0, so that it loses all capabilities when it starts."""
_POLL_SECONDS = 0.005

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def main() -> None:
    """Isolate, run, answer. `{"refused": why}` if this machine does not allow the isolation."""
    order = json.loads(sys.stdin.buffer.read())
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        _isolate(order["folder"], order["folder_bytes"])
    except OSError as error:
        answer: dict[str, Any] = {"refused": f"{error.filename}: {error.strerror}"}
    else:
        answer = _run(order)
    sys.stdout.buffer.write(json.dumps(answer).encode())


def _isolate(folder: str, folder_bytes: int) -> None:
    user, group = os.getuid(), os.getgid()
    _checked("unshare", _libc.unshare(_NEWUSER | _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET))
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{_INSIDE_ID} {user} 1"),
        ("gid_map", f"{_INSIDE_ID} {group} 1"),
    ):
        Path(f"/proc/self/{name}").write_text(text)
    _checked("mount", _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    read_only = _MountAttributes(_ATTR_RDONLY, 0, 0, 0)
    size = ctypes.sizeof(read_only)
    arguments = (_AT_FDCWD, b"/", _AT_RECURSIVE, ctypes.byref(read_only), size)
    _checked("mount_setattr", _libc.syscall(_SYS_MOUNT_SETATTR, *arguments))
    # /run has the sockets of services, which a read-only file system does not keep from being connected to.
    hidden = [(place, "size=4k") for place in ("/proc", "/run") if os.path.isdir(place)]
    for place, options in ((folder, f"size={folder_bytes},mode=700"), *hidden):
        mounted = _libc.mount(b"tmpfs", place.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, options.encode())
        _checked(f"mount {place}", mounted)


def _checked(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _run(order: dict[str, Any]) -> dict[str, Any]:
    """Run the program; what it printed, and how it ended."""
    folder = Path(order["folder"])
    (folder / "program.py").write_text(order["program"], encoding="utf-8")
    (folder / "input").write_text(order["input"], encoding="utf-8")
    start, first = time.monotonic(), os.fork()
    if first == 0:
        _first_process(order)
    status, timed_out = None, False
    while status is None:
        ended, value = os.waitpid(first, os.WNOHANG)
        if ended:
            status = value
        elif not timed_out and time.monotonic() - start > order["wall_seconds"]:
            timed_out = True
            os.kill(first, signal.SIGKILL)  # the first process of a namespace takes all others with it
        else:
            time.sleep(_POLL_SECONDS)
    outputs = {}
    for name in ("stdout", "stderr"):
        with (folder / name).open("rb") as file:
            outputs[name] = file.read(order["output_bytes"]).decode("utf-8", "replace")
    code = os.waitstatus_to_exitcode(status)
    return outputs | {"exit": code, "timed_out": timed_out, "done": (folder / "done").exists()}


def _first_process(order: dict[str, Any]) -> NoReturn:
    """Process 1 of the namespace: starts the program, waits for it, and ends with its exit code (or 128 + signal)."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    program = os.fork()
    if program == 0:
        _become_program(order)
    while True:
        ended, status = os.wait()
        if ended == program:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _become_program(order: dict[str, Any]) -> NoReturn:
    try:
        os.chdir(order["folder"])
        for number, (name, mode) in enumerate((("input", os.O_RDONLY), ("stdout", os.O_CREAT), ("stderr", os.O_CREAT))):
            os.dup2(os.open(name, mode | (os.O_WRONLY if mode else 0)), number)
        os.closerange(3, 256)
        for limit, value in order["limits"].items():
            _, hard = resource.getrlimit(getattr(resource, limit))
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(getattr(resource, limit), (value, value))
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        environment = {"PATH": "/usr/bin:/bin", "HOME": order["folder"], "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-I", "-B", "program.py"], environment)
    except BaseException as error:  # noqa: BLE001 (this process is a copy of the launcher, and must not go on as one)
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(126)


if __name__ == "__main__":
    main()
