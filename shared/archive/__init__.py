"""The archive: closed UTC days of readings as Parquet, in a directory or an object store.

`archiving -> day_arrays -> day_file -> day_store`: a day is read in one snapshot, written beside us, put aside in the
archive, read back and compared, renamed, and then recorded in `archived_days`. Needs the extra: what imports pyarrow is
imported where it is needed.
"""
