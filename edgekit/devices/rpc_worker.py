"""A process that holds one TVM RPC session for :mod:`.rpc`: TVM blocks on its socket for as long as the
other side is silent, so it lives in a process that can be ended.

Standard input and output carry frames: four bytes of length (little endian), JSON, then the raw bytes
that the JSON's ``blobs`` lists the sizes of. Each request has one answer: ``{"ok": ...}`` or
``{"error": text}``.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Sequence
from typing import IO, Any

MOST = 1 << 30  #: bytes of a frame


def write_frame(stream: IO[bytes], document: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
    head = json.dumps({**document, "blobs": [len(b) for b in blobs]}).encode()
    stream.write(struct.pack("<I", len(head)) + head)
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[dict[str, Any], list[bytes]] | None:
    """None at the end of the stream; ValueError for what is no frame."""
    raw = stream.read(4)
    if len(raw) < 4:
        return None
    (length,) = struct.unpack("<I", raw)
    head = stream.read(length) if length < MOST else b""
    if len(head) != length or not length:
        return None
    document = json.loads(head)
    sizes = [int(n) for n in document.pop("blobs")]
    if sum(sizes) > MOST:
        raise ValueError("a frame is too large")
    blobs = [stream.read(n) for n in sizes]
    return (document, blobs) if [len(b) for b in blobs] == sizes else None


class _Session:
    def __init__(self) -> None:
        self.session: Any = None
        self.vm: Any = None
        self.device: Any = None

    def connect(self, q: dict[str, Any], _blobs: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        from tvm import rpc

        if q.get("tracker"):
            tracker = rpc.connect_tracker(q["host"], q["port"])
            self.session = tracker.request(
                q["key"], priority=1, session_timeout=q["timeout"], max_retry=1
            )
        else:
            self.session = rpc.connect(
                q["host"], q["port"], key=q["key"], session_timeout=q["timeout"]
            )
        self.device = self.session.cpu(0)
        return {}, []

    def load(self, q: dict[str, Any], _blobs: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        from tvm import relax

        self.session.upload(q["path"], q["name"])
        module = self.session.load_module(q["name"])
        self.vm = relax.VirtualMachine(module, self.device)
        return {}, []

    def _set(self, q: dict[str, Any], blobs: list[bytes]) -> None:
        import numpy as np
        import tvm

        arrays = [
            np.frombuffer(b, t["dtype"]).reshape(t["shape"])
            for b, t in zip(blobs, q["inputs"], strict=True)
        ]
        given = [tvm.runtime.tensor(a, self.device) for a in arrays]
        self.vm.set_input("main", *given)

    def invoke(self, q: dict[str, Any], blobs: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        self._set(q, blobs)
        self.vm.invoke_stateful("main")
        found = self.vm.get_outputs("main")
        outputs = [found] if hasattr(found, "numpy") else list(found)
        arrays = [o.numpy() for o in outputs]
        described = [{"dtype": str(a.dtype), "shape": list(a.shape)} for a in arrays]
        return {"outputs": described}, [a.tobytes() for a in arrays]

    def time(self, q: dict[str, Any], blobs: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        self._set(q, blobs)
        timer = self.vm.time_evaluator("invoke_stateful", self.device, number=1, repeat=q["runs"])
        return {"seconds": [float(s) for s in timer("main").results]}, []


def main() -> int:
    # TVM's C++ writes to descriptor 1, too: the frames go to a copy of it.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    session = _Session()
    verbs = {"connect": session.connect, "load": session.load, "invoke": session.invoke,
             "time": session.time}  # fmt: skip
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        document, blobs = frame
        try:
            answer, results = verbs[document.pop("verb")](document, blobs)
            write_frame(out, {"ok": answer}, results)
        except Exception as e:  # whatever TVM raises is an answer
            write_frame(out, {"error": f"{type(e).__name__}: {e}"[:4000]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
