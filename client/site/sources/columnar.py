"""Parquet files, and Hugging Face dataset folders: ``save_to_disk`` and folders of Parquet shards.

They are read with pyarrow, batch by batch. Whole-number labels that the file gives names to (the
``ClassLabel`` of ``datasets``) come out as those names; -1 is no label. Nothing is copied to disk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from cloister.client.site.sources import files
from cloister.privacy.errors import InputError

_BATCH = 1024
_SHARD = re.compile(r"(.+)-\d+-of-\d+\.parquet")
_MOST_STATE = 1 << 20


class Columnar:
    """One or more Arrow or Parquet files with the same columns."""

    ordered = True

    def __init__(self, paths: Sequence[Path], parquet: bool) -> None:
        self._paths, self._parquet = paths, parquet
        schemas = [self._schema(path) for path in paths]
        if any(schema.names != schemas[0].names for schema in schemas):
            raise ValueError("the files of the folder differ in their columns")
        self.columns: Sequence[str] = schemas[0].names

    def rows(self, names: Sequence[str]) -> Generator[Sequence[object], None, None]:
        """See ``Table``."""
        for path in self._paths:
            with files.regular(path) as file, _arrow_errors():
                schema, batches = self._opened(file, names)
                labels = _label_names(schema)
                for batch in batches:
                    columns = [_named(batch.column(name).to_pylist(), labels.get(name)) for name in names]
                    yield from zip(*columns, strict=True)

    def _schema(self, path: Path) -> Any:
        with files.regular(path) as file, _arrow_errors():
            return self._opened(file, [])[0]

    def _opened(self, file: BinaryIO, names: Sequence[str]) -> tuple[Any, Iterator[Any]]:
        import pyarrow
        import pyarrow.parquet

        if self._parquet:
            found = pyarrow.parquet.ParquetFile(file)
            return found.schema_arrow, found.iter_batches(batch_size=_BATCH, columns=list(names))
        stream = pyarrow.ipc.open_stream(file)
        return stream.schema, iter(stream)


@contextmanager
def parquet(path: Path) -> Iterator[Columnar]:
    """An open Parquet file."""
    yield Columnar([path], parquet=True)


@contextmanager
def folder(path: Path) -> Iterator[Columnar]:
    """An open folder of a Hugging Face dataset.

    Raises:
        InputError: ``file_format``, no such folder, or more than one split in it.
    """
    files.check_place(path)
    if (path / "dataset_dict.json").exists():
        raise _splits(path)
    if (path / "state.json").exists():
        yield Columnar([path / name for name in _files(path)], parquet=False)
        return
    shards = sorted(path.glob("*.parquet"))
    if not shards:
        raise InputError(
            "file_format",
            f"{path} is no folder of a dataset.",
            "Give one that `save_to_disk` made, or one of .parquet files.",
        )
    if len({match[1] for shard in shards if (match := _SHARD.fullmatch(shard.name))}) > 1:
        raise _splits(path)
    yield Columnar(shards, parquet=True)


def _splits(path: Path) -> InputError:
    return InputError("file_format", f"{path} holds more than one split.", "Give the folder of one split.")


def _files(path: Path) -> list[str]:
    """The data files that ``save_to_disk`` listed, in order; only plain names within the folder."""
    with files.regular(path / "state.json") as file:
        state = json.loads(file.read(_MOST_STATE))
    try:
        names = [entry["filename"] for entry in state["_data_files"]]
    except (TypeError, KeyError) as error:
        raise ValueError("state.json lists no files") from error
    if not names or any(not isinstance(name, str) or name != Path(name).name for name in names):
        raise ValueError("state.json lists something that is no file of the folder")
    return names


def _label_names(schema: Any) -> dict[str, list[str]]:
    """The names of whole-number labels, by column, as ``datasets`` writes them into a schema."""
    data = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(data)["info"]["features"] if data else {}
        return {
            name: [str(label) for label in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError("the description of the columns is malformed") from error


def _named(values: list[object], names: list[str] | None) -> list[object]:
    if names is None:
        return values
    if any(value is not None and not isinstance(value, int) for value in values):
        raise ValueError("a label with names is no whole number")
    if any(isinstance(value, int) and not -1 <= value < len(names) for value in values):
        raise ValueError("a label has no name")
    return [names[value] if isinstance(value, int) and value >= 0 else None for value in values]


@contextmanager
def _arrow_errors() -> Iterator[None]:
    """Failures of pyarrow as ``ValueError``, whose words are never shown."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise ValueError("pyarrow cannot read the file") from error
