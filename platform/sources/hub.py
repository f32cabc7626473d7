"""A data set's files on the Hugging Face hub, by address: hf://datasets/OWNER/NAME, read only."""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem, SubTreeFileSystem

from vigc.platform.records import InputError
from vigc.platform.storage import Entry

HUB = "hf://"


class HubFolder:
    """As much of `storage.Folder` as reading needs."""

    def __init__(self, address: str) -> None:
        self.uri = address
        self._path = address.removeprefix(HUB)

    @cached_property
    def arrow(self) -> FileSystem:
        from huggingface_hub import HfFileSystem

        return SubTreeFileSystem(self._path, PyFileSystem(FSSpecHandler(HfFileSystem())))

    def files(self) -> list[Entry]:
        from huggingface_hub import HfFileSystem

        try:
            found = cast(dict[str, dict[str, Any]], HfFileSystem().find(self._path, detail=True))
        except Exception as error:
            what = str(error).partition("\n")[0]
            raise InputError(
                f"{self.uri}: the hub gives nothing ({what}). Check name and network; HF_TOKEN opens what is private."
            ) from error
        return [Entry(name.removeprefix(f"{self._path}/"), entry["size"]) for name, entry in sorted(found.items())]
