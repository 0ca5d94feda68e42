"""The operator's command `energyfleet`: a client of both services, and what starts them on one machine.

efficiency -> simulator -> messages -> client    (a simulated fleet, towards the services)
readings_file           -> messages -> client    (a recorded one)
stack                                            (database, migration, both services as child processes)
"""
