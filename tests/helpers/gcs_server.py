"""Google Cloud Storage on loopback, as far as the package gcp-storage-emulator knows it: all but conditional writes.

Run as a program, it serves: `python gcs_server.py PORT BUCKET`.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ports import HOST, free_port
from processes import ENDS_WITH_PARENT
from waiting import WAIT_S

BUCKET = "tests"


class GcsServer:
    """Keeps everything in memory, until `kill`."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        own = [sys.executable, __file__, str(self.port), BUCKET]
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                [*ENDS_WITH_PARENT, *own], stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        until = time.monotonic() + WAIT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"the server did not start. Its log:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)

    @property
    def env(self) -> dict[str, str]:
        """What a client's environment needs."""
        return {"STORAGE_EMULATOR_HOST": f"http://{HOST}:{self.port}", "NO_PROXY": HOST, "no_proxy": HOST}

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(30)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", f"/storage/v1/b/{BUCKET}")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def serve(port: int, bucket: str) -> None:
    """The emulator handles one request after the other, and none ever again once a client lets a half-read answer lie.
    Here it still handles them in turn, for its memory is not safe for threads, but each answer has a thread.
    """
    import gcp_storage_emulator.server as emulator

    in_turn = threading.Lock()

    def answered_apart(handle: Callable[[Any], None]) -> Callable[[Any], None]:
        def handle_and_answer(self: Any) -> None:
            connection, self.wfile = self.wfile, io.BytesIO()
            with in_turn:
                handle(self)
            answer, self.wfile = self.wfile.getvalue(), connection
            with contextlib.suppress(ConnectionError):  # the client has read enough
                self.wfile.write(answer)

        return handle_and_answer

    for name in [name for name in vars(emulator.RequestHandler) if name.startswith("do_")]:
        setattr(emulator.RequestHandler, name, answered_apart(getattr(emulator.RequestHandler, name)))
    http.server.HTTPServer = http.server.ThreadingHTTPServer  # type: ignore[misc]
    emulator.create_server(HOST, port, in_memory=True, default_bucket=bucket).run()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
