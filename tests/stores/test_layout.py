"""How a root should be cut up."""

from stores.layout import BUCKET_DAY_BYTES, BUCKET_HISTORY_ROWS, ROW_BYTES, advise_buckets


def test_buckets_keep_a_bucket_small_in_the_shuffle_and_in_memory():
    assert advise_buckets(0, 0) == 64
    assert advise_buckets(75_000_000_000, 2_000_000_000) == 32_768  # docs/scale.md
    for history_rows, rows_a_day in ((10**9, 10**6), (10**6, 10**10), (3 * 10**8, 10**8)):
        buckets = advise_buckets(history_rows, rows_a_day)
        assert history_rows / buckets <= BUCKET_HISTORY_ROWS
        assert rows_a_day * ROW_BYTES / buckets <= BUCKET_DAY_BYTES
        half = buckets / 2  # fewer would not do
        assert (
            half < 64 or history_rows / half > BUCKET_HISTORY_ROWS or rows_a_day * ROW_BYTES / half > BUCKET_DAY_BYTES
        )
