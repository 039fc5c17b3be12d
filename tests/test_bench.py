from mbrec import bench


def test_the_ratio_is_that_of_the_rates_and_lies_in_its_interval():
    job, loop = [2.0] * 9 + [1.0, 4.0], [1.0] * 11
    text = bench.describe(100, job, loop)
    assert "50 rows/s" in text
    assert "100 rows/s" in text
    assert "ratio      0.500 (95 % interval of the median 0.500 to 0.500, 11 rounds" in text


def test_blocks_take_turns_and_warm_up_rounds_are_not_counted():
    ran = []
    blocks = [lambda: ran.append("job"), lambda: ran.append("loop")]
    seconds = bench.interleave(blocks, lambda: None)
    assert [len(times) for times in seconds] == [bench.ROUNDS] * 2
    assert len(ran) == 2 * (bench.ROUNDS + bench.WARMUP_ROUNDS)
    assert ran[:4] in (["loop", "job", "job", "loop"], ["job", "loop", "loop", "job"])
