"""Start the service, ask it about one image, and end it.

python jobs/examples/serve_and_ask.py IMAGE
"""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

PORT = 8077
URL = f"http://127.0.0.1:{PORT}"


def wait_until_ready(service: subprocess.Popen[bytes]) -> None:
    while service.poll() is None:
        try:
            urllib.request.urlopen(f"{URL}/readyz")
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise SystemExit("the service ended before it was ready")


def ask(image: bytes, kind: str) -> dict[str, Any]:
    """The row that `vigc generate` would make."""
    mark = "a-line-that-is-in-no-image"
    head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n\r\n'
    tail = f'\r\n--{mark}\r\nContent-Disposition: form-data; name="kinds"\r\n\r\n{kind}\r\n--{mark}--\r\n'
    asked = urllib.request.Request(f"{URL}/v1/vigc", data=head.encode() + image + tail.encode())
    asked.add_header("Content-Type", f"multipart/form-data; boundary={mark}")
    with urllib.request.urlopen(asked) as answer:
        row: dict[str, Any] = json.load(answer)
    return row


if __name__ == "__main__":
    service = subprocess.Popen([sys.executable, "-m", "vigc", "serve", "--port", str(PORT)])
    try:
        wait_until_ready(service)
        row = ask(Path(sys.argv[1]).read_bytes(), "detail")
        for talk in row["conversations"]:
            print(talk["question"], "\n", talk["answer"])
    finally:
        service.terminate()  # it finishes what is under way
        service.wait()
