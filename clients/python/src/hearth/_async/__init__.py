"""The client for asyncio. `_sync` is made of it by `tools/make_sync.py`; only `driver.py` is written twice."""
