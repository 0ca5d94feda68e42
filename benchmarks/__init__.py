"""Where the README's figures come from: `make bench`.

    __main__ -> stream, unary, ... -> figures                  (what is measured, and the table)
    ack, streams, stall, fairness, soak -> load -> fleetcli.client.uplink   (ExchangeTelemetry; all but ack by name)
    exact: what is stored and answered, not how fast           (a million readings against a model, by name)
    verdicts: who is accused, who is missed            (a simulated year of which the truth is known, by name)
    pictures: of docs/verdicts.md                              (`python -m benchmarks.pictures`; nothing is measured)
    performance, growth -> reads -> ask, plans                  (analytics: how long it takes, and PostgreSQL's plans)
    harness -> the database, the services and the clients, each a process of its own
    readings -> client, raw_copy, history                       (the same readings as messages, as COPY rows, as SQL)

The machine's cores are shared by client, service and database, so a rate is quoted together with its ratio to a
raw COPY that ran seconds before or after on the same server.
"""
