from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import records, row

from vigc.platform.records import ImageRecord, ObjectBox, Stop
from vigc.platform.schema import MANIFEST, ROW, from_dict, row_from_dict, to_dict


def test_a_row_survives_arrow_and_parquet_unchanged(tmp_path):
    rows = [row(records(1)[0]), row(records(2)[1], error="missing")]
    pq.write_table(pa.Table.from_pylist([to_dict(one) for one in rows], schema=ROW), tmp_path / "rows.parquet")
    back = [row_from_dict(values) for values in pq.read_table(tmp_path / "rows.parquet").to_pylist()]
    assert back == rows
    assert isinstance(back[0].conversations[0].steps[0].stop, Stop)  # a plain string would be equal


def test_unknown_objects_and_no_objects_stay_two_things():
    unknown = ImageRecord("a", "/a")
    none = ImageRecord("b", "/b", objects=[])
    some = ImageRecord("c", "/c", 4, 3, [ObjectBox("dog", [0.0, 1.0, 2.0, 3.0], True)], ["A dog."])
    table = pa.Table.from_pylist([to_dict(record) for record in (unknown, none, some)], schema=MANIFEST)
    assert [from_dict(ImageRecord, values) for values in table.to_pylist()] == [unknown, none, some]


def test_no_column_takes_its_type_from_the_values_in_it():
    only_failures = pa.Table.from_pylist([to_dict(row(records(1)[0], error="empty"))], schema=ROW)
    assert only_failures.schema.equals(ROW)
    assert "null" not in str(only_failures.schema)
