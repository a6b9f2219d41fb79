#!/usr/bin/env python3
"""Put CPython's own socketserver checks to a server that is already running.

    judge.py tcp HOST PORT
    judge.py udp HOST PORT
    judge.py unix PATH
    judge.py unix-datagram PATH

The checks are SocketServerTest.stream_examine(proto, addr) and
SocketServerTest.dgram_examine(proto, addr) of Lib/test/test_socketserver.py of the
Python that runs this, called three times as SocketServerTest.run_server does.  The
server has to answer what its handler reads up to the first newline with the same
bytes (the line, newline included, nothing more): b"hello world\\n".

Prints one line.  Exit status: 0 passed, 1 failed, 2 called wrongly, 77 skipped
(no test.test_socketserver here).
"""
import os
import socket
import sys
import tempfile
import unittest

TIMES = 3       # SocketServerTest.run_server calls the check three times

# A package `test` beside this file must not hide the standard one.
_here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [p for p in sys.path if os.path.abspath(p or os.curdir) != _here]

def main(argv):
    kind, rest = (argv[0] if argv else ""), argv[1:]
    if kind in ("tcp", "udp"):
        if len(rest) != 2 or not rest[1].isdigit():
            return usage()
        proto = socket.AF_INET6 if ":" in rest[0] else socket.AF_INET
        addr = (rest[0], int(rest[1]))
    elif kind in ("unix", "unix-datagram"):
        if len(rest) != 1 or not hasattr(socket, "AF_UNIX"):
            return usage()
        proto, addr = socket.AF_UNIX, os.path.abspath(rest[0])
    else:
        return usage()

    try:
        from test.test_socketserver import SocketServerTest
    except (ImportError, unittest.SkipTest) as e:   # SkipTest: no network resource
        print("skipped: test.test_socketserver of Python %s cannot be imported: %s"
              % (sys.version.split()[0], e))
        return 77

    class Judge(SocketServerTest):
        # unittest has nothing to collect here: this only carries the two checks.
        def runTest(self):
            pass

        def pickaddr(self, proto):
            # Where dgram_examine binds its AF_UNIX client.  From 3.12 on CPython
            # picks a name relative to the current directory, which a server in
            # another directory could not answer: give it an absolute one.
            fn = super().pickaddr(proto)
            if proto == getattr(socket, "AF_UNIX", None) and not os.path.isabs(fn):
                fn = os.path.join(self.directory, os.path.basename(fn))
                self.test_files.append(fn)
            return fn

    judge = Judge()
    examine = judge.stream_examine if kind in ("tcp", "unix") else judge.dgram_examine
    judge.directory = tempfile.mkdtemp(prefix="judge.")
    done, error = 0, None
    judge.setUp()               # makes test_files, which pickaddr appends to
    try:
        while done < TIMES:
            examine(proto, addr)
            done += 1
    except Exception as e:      # AssertionError, OSError, RuntimeError("timed out on ...")
        error = e
    finally:
        judge.tearDown()        # removes test_files
        os.rmdir(judge.directory)

    what = "%s %s with %s of Python %s" % (
        kind, " ".join(rest), examine.__name__, sys.version.split()[0])
    if error is not None:
        text = " ".join(str(error).split())
        print("failed: %s: exchange %d of %d: %s: %s"
              % (what, done + 1, TIMES, type(error).__name__, text))
        return 1
    print("passed: %s: %d exchanges" % (what, done))
    return 0


def usage():
    print("usage: judge.py tcp HOST PORT | udp HOST PORT | unix PATH | unix-datagram PATH")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
