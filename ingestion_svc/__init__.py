"""Takes telemetry in. The path of a reading is the list of files:

    servicer -> decode -> batch -> writer

`servicer` is the door, `decode` turns messages into rows and rejections, `batch` commits the rows of all calls
together, `writer` writes a batch in one transaction. `receipt` collects what became of one call's readings.
"""
