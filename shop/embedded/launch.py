"""Becomes a server: gets a user that the server accepts, ties its life to its parent's, then executes it.

It is a program of its own, `python -I -S launch.py … -- PROGRAM ARGUMENTS`, because what it does between fork and exec
is not safe to do in a parent that has threads. It must import nothing but the standard library.
"""

import argparse
import ctypes
import os
import pwd
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

NOBODY = 65534
WATCH_INTERVAL_SECONDS = 0.2

# From <linux/sched.h>, <linux/prctl.h> and <linux/capability.h>.
CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    """Read the command line and become the program that it ends with."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True, help="process without which the server must not live")
    parser.add_argument("--death-signal", type=int, required=True, help="what the server gets when its parent is gone")
    parser.add_argument("--watch", action="store_true", help="look after the parent here, not through the kernel")
    parser.add_argument(
        "--ordinary-user", action="store_true", help="the program refuses root and users without a name"
    )
    parser.add_argument("--own", action="append", default=[], type=Path, help="directory that the program must own")
    parser.add_argument("program", nargs="+")
    options = parser.parse_args()

    if options.ordinary_user:
        become_ordinary_user(options.own)
    # Only now: the kernel forgets the death signal when a process changes its user.
    if options.watch:
        watch_parent(options.parent, options.death_signal)
    else:
        _call("prctl", PR_SET_PDEATHSIG, options.death_signal, 0, 0, 0)
    if os.getppid() != options.parent:
        sys.exit("the parent is gone")
    try:
        os.execv(options.program[0], options.program)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.exit(f"{options.program[0]}: {error.strerror}")


def become_ordinary_user(directories: list[Path]) -> None:
    """Be somebody else than root: in a user namespace of our own, or, where namespaces are refused, as `nobody`.

    In the namespace the program sees itself as `nobody` while its files still belong to root outside, so that
    directories which only root can enter are no obstacle. A number without a name, which containers like to run as, is
    helped in the same way if the system lets it.
    """
    root = os.geteuid() == 0
    if not root and _has_name():
        return
    if root:
        _give(directories, os.geteuid())
    if sys.platform == "linux" and _enter_user_namespace():
        return
    if root:
        _give(directories, NOBODY)
        _become_nobody()


def _has_name() -> bool:
    try:
        return bool(pwd.getpwuid(os.geteuid()))
    except KeyError:
        return False


def _enter_user_namespace() -> bool:
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", CLONE_NEWUSER)
    except OSError:
        return False
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {user} 1")
    # The kernel wants this first: a group that denies access could be dropped otherwise.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} {group} 1")
    return True


def _become_nobody() -> None:
    """Change to `nobody`, but keep, where Linux allows it, the right to enter what only root can enter, as its home."""
    linux = sys.platform == "linux"
    if linux:
        _call("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    if linux:
        right = 1 << CAP_DAC_OVERRIDE
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        effective_permitted_inheritable = (ctypes.c_uint32 * 6)(right, right, right, 0, 0, 0)
        try:
            _call("capset", header, effective_permitted_inheritable)
            _call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)
        except OSError as error:
            print(f"going on without the right to enter root's directories: {error}", file=sys.stderr)  # noqa: T201


def watch_parent(parent: int, death_signal: int) -> None:
    """Where the kernel sends no death signal: leave a child behind that ends the server when its parent is gone."""
    server = os.getpid()
    if os.fork() != 0:
        return
    try:
        while os.getppid() == server:
            if not _alive(parent):
                os.kill(server, death_signal)
                break
            time.sleep(WATCH_INTERVAL_SECONDS)
    finally:
        os._exit(0)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _give(directories: list[Path], user: int) -> None:
    """Make the directories and all that is in them the user's; a previous run may have had to take the other way."""
    for directory in directories:
        if directory.stat().st_uid == user:
            continue
        for path in (directory, *directory.rglob("*")):
            os.chown(path, user, -1, follow_symlinks=False)


def _call(function: str, *arguments: int | ctypes.Array[ctypes.c_uint32]) -> None:
    wide = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments]
    if getattr(_libc, function)(*wide) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{function}: {os.strerror(error)}")


if __name__ == "__main__":
    # Whatever the parent made of these signals, a server and its launcher want their own way of them.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(each, signal.SIG_DFL)
    main()
