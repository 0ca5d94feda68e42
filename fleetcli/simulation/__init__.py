"""A simulated fleet, sent and checked through the reference client.

efficiency -> charging -> charger -> simulator -> sending   (readings towards the service)
                          charger -> truth     -> check     (what it must answer)
"""
