"""Event files keep their order whatever the clock says, and damage in one is noticed."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter

from mbrec.monitor import event_files


def write(path, contents):
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for content in contents:
            writer.write(content)
        writer.flush()


CONTENTS = [b"first", bytes(300), b"", b"x" * 70_000, bytes(range(256)), b"last"]


@settings(max_examples=25, deadline=None)
@given(contents=st.lists(st.binary(max_size=40), max_size=6))
def test_records_are_those_that_tensorboard_wrote(tmp_path_factory, contents):
    path = tmp_path_factory.mktemp("records") / "events"
    write(path, contents)
    assert list(event_files.records(path)) == contents


def test_a_record_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "events"
    write(path, CONTENTS)
    whole = path.read_bytes()
    for cut in range(1, 20):
        path.write_bytes(whole[:-cut])
        assert list(event_files.records(path)) == CONTENTS[:-1]


def test_a_flipped_bit_costs_one_record_and_is_told(tmp_path):
    path, draw = tmp_path / "events", random.Random(0)
    write(path, CONTENTS)
    whole = path.read_bytes()
    places = [*range(16 + 5 + 16), *(draw.randrange(len(whole)) for _ in range(15))]
    places += range(len(whole) - 20, len(whole))
    for at in places:
        content = bytearray(whole)
        content[at] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        found = list(event_files.records(path))
        assert found.count(None) == 1, at
        assert [record for record in found if record is not None] in [
            [*CONTENTS[:n], *CONTENTS[n + 1 :]] for n in range(len(CONTENTS))
        ], at


@pytest.mark.parametrize("content", [bytes(1000), b"\xff" * 1000, b"none of TensorBoard's"])
def test_a_file_of_something_else_has_no_records_and_is_told(tmp_path, content):
    path = tmp_path / "events"
    path.write_bytes(content)
    assert list(event_files.records(path)) == [None]


def test_a_record_that_claims_more_than_there_is_takes_no_memory(tmp_path):
    path = tmp_path / "events"
    head = (1 << 60).to_bytes(8, "little")
    path.write_bytes(head + masked_crc32c(head).to_bytes(4, "little") + bytes(100))
    assert list(event_files.records(path)) == []


def test_files_are_in_the_order_in_which_they_were_begun(tmp_path):
    names = []
    # The clock goes back, and back again.
    for time in (3, 2, 1):
        name = f"events.out.tfevents.{time}.host.123456.0{event_files.suffix(tmp_path)}"
        (tmp_path / name).touch()
        names.append(name)
    (tmp_path / f"events.out.tfevents.0.h.1.0{event_files.suffix(tmp_path, '.hparams')}").touch()
    (tmp_path / "events.out.tfevents.9.host.1.0").touch()  # of an earlier version
    (tmp_path / "notes.txt").touch()
    found = [path.name for path in event_files.in_order(tmp_path)]
    assert found[:4] == ["events.out.tfevents.9.host.1.0", *names]
    assert found[4].endswith(".hparams")
    assert len(found) == 5
    assert event_files.in_order(tmp_path / "nowhere") == []


def test_the_name_of_the_next_file_cannot_be_guessed(tmp_path):
    assert len({event_files.suffix(tmp_path) for _ in range(10)}) == 10
