"""Small files of every format that images come in, with the quirks of the real ones."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pyarrow as pa
import pyarrow.parquet as pq

V2_NAMES = ["images/v1/patch0/objects365_v1_00000001.jpg", "images/v2/patch16/objects365_v2_00908727.jpg"]
GHOST = "images/v2/patch16/objects365_v2_00908726.jpg"
FEATURES = {"info": {"features": {"picture": {"_type": "Image"}, "text": {"_type": "Value", "dtype": "string"}}}}


@contextmanager
def serving(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def coco(images, annotations=(), categories=({"id": 1, "name": "dog"},)):
    return {"annotations": list(annotations), "images": list(images), "categories": list(categories)}


def write_objects365(folder):
    images = [{"id": i, "file_name": name, "width": 4, "height": 3} for i, name in enumerate([GHOST, *V2_NAMES])]
    boxes = [
        {"image_id": 0, "category_id": 1, "bbox": [0, 0, 1, 1]},
        {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3.5, 4], "isfake": 1, "isreflected": 0},
        {"image_id": 2, "category_id": 2, "bbox": [1, 2, 3.5, 4], "isfake": 0, "isreflected": 1},
    ]
    names = [{"id": 1, "name": "Moniter/TV "}, {"id": 2, "name": " Dinning Table"}]
    return write_json(folder / "zhiyuan_objv2_train.json", coco(images, boxes, names))


def write_csv(path, rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    for row in rows:
        writer.writerow({name: json.dumps(v) if isinstance(v, list) else v for name, v in row.items()})
    path.write_text(text.getvalue())
    return path


def write_lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


def write_parquet(path, rows):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def hf_table(paths, texts=None, data=None):
    """The pictures' bytes may be given, one for each path."""
    pictures = [{"bytes": one, "path": path} for one, path in zip(data or [b"png"] * len(paths), paths, strict=True)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"label": pa.array(range(len(paths))), "picture": pa.array(pictures, kind)}
    columns["text"] = pa.array(texts or ["A dog."] * len(paths))
    return pa.table(columns).replace_schema_metadata({b"huggingface": json.dumps(FEATURES).encode()})


def save_to_disk(folder, tables):
    folder.mkdir(parents=True)
    names = [f"data-{n:05}-of-{len(tables):05}.arrow" for n in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        with pa.ipc.new_stream(folder / name, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    write_json(folder / "dataset_info.json", FEATURES["info"])
    write_json(folder / "state.json", {"_data_files": [{"filename": name} for name in names], "_split": "train"})
    return folder


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as reading the files of one data set takes."""

    data: bytes

    def do_GET(self):
        about = {"type": "file", "path": "data/x.parquet", "size": len(self.data), "oid": "0" * 40}
        if self.path.startswith("/api/datasets/a/b/tree/"):
            self.answer(200, json.dumps([about]).encode())
        elif self.path.startswith("/api/datasets/a/b"):
            self.answer(200, json.dumps({"id": "a/b", "sha": "0" * 40, "siblings": [], "tags": []}).encode())
        elif self.path.startswith("/datasets/a/b/resolve/main/data/x.parquet"):
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            self.answer(206, self.data[int(first) : int(last) + 1])
        else:
            self.answer(404, b"{}")

    def answer(self, code, body):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass
