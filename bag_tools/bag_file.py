"""A rosbag2 folder or a bare MCAP file opened for reading without ROS, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.rosbag2.storage_mcap import McapReader
from rosbags.serde import SerdeError

from bag_tools.messages import typestore
from streampetr_core.errors import StreamPETRError


class BagError(StreamPETRError):
    """A bag that cannot be read, or lacks what was asked of it."""


@dataclass(frozen=True)
class Topic:
    """What a bag holds under one name."""

    name: str
    type_name: str
    count: int


@dataclass(frozen=True)
class RawMessage:
    """One serialised (CDR) message and when it was logged."""

    topic: str
    type_name: str
    log_ns: int
    data: bytes


def decode_message(message: RawMessage) -> Any:
    """The message as an object of rosbags' class for its type.

    Raises:
        BagError: for unknown types and bytes that do not fit the type.
    """
    try:
        return typestore().deserialize_cdr(message.data, message.type_name)
    except Exception as error:  # rosbags lets struct, index and Unicode errors through
        where = f"message on {message.topic} at {message.log_ns} ns"
        raise BagError(f"{where} is no {message.type_name} ({error!r})") from error


class BagFile:
    """A bag open for reading; use it as a context manager.

    Takes a rosbag2 folder, an .mcap or a .db3 file. An MCAP that was cut off (a recorder that was killed, a disk
    that was full) is read up to its last whole record: `lost_bytes` says how much is missing at the end.

    Raises:
        BagError: when there is no bag, or nothing in it can be read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.lost_bytes = 0
        self._storage: Reader | McapReader | None = None

    def __enter__(self) -> BagFile:
        if not self.path.exists():
            raise BagError(f"{self.path}: no such bag; give a rosbag2 folder or an .mcap file")
        inside = sorted(path.parent.name for path in self.path.glob("*/metadata.yaml"))
        if inside and not (self.path / "metadata.yaml").exists():
            raise BagError(f"{self.path}: a folder of bags; give one of {', '.join(inside)}")
        try:
            self._storage = self._open()
        except (ReaderError, OSError, ValueError, AssertionError, SerdeError) as error:
            raise BagError(f"{self.path}: cannot be opened as a bag ({error})") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        storage, self._storage = self._storage, None
        if storage is not None:
            with suppress(Exception):
                storage.close()

    @property
    def topics(self) -> dict[str, Topic]:
        """name -> topic; where publishers of several types share a name, the first type."""
        found: dict[str, Topic] = {}
        for connection in self._connections():
            earlier = found.get(connection.topic)
            kind = earlier.type_name if earlier else connection.msgtype
            count = connection.msgcount if connection.msgtype == kind else 0
            found[connection.topic] = Topic(connection.topic, kind, count + (earlier.count if earlier else 0))
        return found

    @property
    def span_ns(self) -> tuple[int, int]:
        """Log times of the first and last message; (0, 0) for an empty bag."""
        storage = self._opened()
        metadata = storage.storage.metadata if isinstance(storage, Reader) else storage.metadata
        return (metadata.start_time, metadata.end_time - 1) if metadata.message_count else (0, 0)

    def messages(
        self, topics: Collection[str] | None = None, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[RawMessage]:
        """Messages of some topics (None = all) in log order, from `start_ns` on and before `stop_ns`.

        Raises:
            BagError: when the file turns out to be damaged on the way.
        """
        chosen = [c for c in self._connections() if topics is None or c.topic in topics]
        if not chosen:
            return
        last = 0
        try:
            for connection, log_ns, data in self._opened().messages(chosen, start_ns, stop_ns):
                last = log_ns
                yield RawMessage(connection.topic, connection.msgtype, log_ns, bytes(data))
        except (ReaderError, SerdeError, OSError, ValueError) as error:
            raise BagError(f"{self.path}: damaged after log time {last} ns ({error}); recover it first") from error

    def decode(self, message: RawMessage) -> Any:
        """The message as an object of rosbags' class for its type.

        Raises:
            BagError: for unknown types and bytes that do not fit the type.
        """
        try:
            return decode_message(message)
        except BagError as error:
            raise BagError(f"{self.path}: {error}") from error

    def _connections(self) -> list[Connection]:
        return self._opened().connections

    def _opened(self) -> Reader | McapReader:
        if self._storage is None:
            raise BagError(f"{self.path}: the bag is not open; use it in a with statement")
        return self._storage

    def _open(self) -> Reader | McapReader:
        """The ordinary reader where the bag is whole; for one cut-off MCAP file the recovering one."""
        path = self.path
        if path.is_dir() and not (path / "metadata.yaml").is_file():
            path = self._only_storage()
        try:
            reader = Reader(path)
            reader.open()
        except (ReaderError, AssertionError, ValueError):
            storage = self._only_storage() if path.is_dir() else path
            if storage.suffix != ".mcap":
                raise
            recovering = _CutOffMcapReader(storage)
            recovering.open()
            self.lost_bytes = recovering.lost_bytes
            if not recovering.metadata.message_count:
                recovering.close()
                raise
            return recovering
        return reader

    def _only_storage(self) -> Path:
        files = sorted([*self.path.glob("*.mcap"), *self.path.glob("*.db3")])
        if len(files) != 1:
            raise BagError(
                f"{self.path}: no metadata.yaml and {len(files)} storage files; give one of the files, or rebuild "
                "the metadata with 'ros2 bag reindex'"
            )
        return files[0]


class _CutOffMcapReader(McapReader):
    """Reads an MCAP without footer or index up to the last whole record."""

    lost_bytes = 0

    def _open(self) -> None:
        try:
            super()._open()
        except ReaderError:
            if self.bio is None or not self.data_start:  # the beginning is wrong: no MCAP, or not of ROS 2
                raise
            self.data_end = self._last_whole_record()
            self.chunks.clear()
            self.connections.clear()
            self.schemas.clear()
            self.meta_scan()
            if self.statistics is None:
                raise
            counts, total = self.statistics.channel_message_counts, self.statistics.message_count
            start, end = self.statistics.start_time, self.statistics.end_time
            self.connections = [c._replace(msgcount=counts.get(c.id, 0)) for c in self.connections]
            self.metadata = self.metadata._replace(
                duration=end - start + 1 if total else 0,
                start_time=start if total else self.metadata.start_time,
                end_time=end + 1 if total else 0,
                message_count=total,
            )

    def _last_whole_record(self) -> int:
        assert self.bio is not None
        size = self.bio.seek(0, 2)
        position = self.data_start
        while position + 9 <= size:
            self.bio.seek(position)
            kind = self.bio.read(1)[0]
            length = int.from_bytes(self.bio.read(8), "little")
            if position + 9 + length > size or kind == 0x0F:  # 0x0F: end of the data section
                break
            position += 9 + length
        self.lost_bytes = size - position
        return position
