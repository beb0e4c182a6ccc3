"""The client that waits. Made of `_async` by `tools/make_sync.py`; only `driver.py` is written by hand."""
