"""Takes telemetry in. A message of readings passes these files, in this order:

    servicer -> decode -> intake -> batch -> writer -> receipt -> replies

`servicer` has the rpcs, and `decode` turns messages into rows and rejections. `intake` admits a message to its devices'
rates (`admission`) and has it decoded slice by slice. `batch` collects the rows of all calls, live ones first
(`fairness`), and `writer` commits each batch in one transaction, with the statements of `writer_sql`. `receipt` counts
the outcomes of a call's readings, and `replies` builds the messages. `readings` defines rows, rejections and outcomes.
`exchange` is a stream that is acknowledged as it goes.

Mappings pass `servicer -> mapping_requests -> mappings -> replies`, and corrections of readings pass
`servicer -> correction_requests -> corrections -> replies`.

In the background `device_evidence` (`clock_evidence`, `refusals`) and `heartbeat` write what is known of devices
and of the time, with the statements of `upkeep_sql`, and `maintenance` creates and drops partitions. `supervisor` runs
several such processes behind one port.
"""

import shared as _shared  # noqa: F401  # before gRPC, whose log it silences
