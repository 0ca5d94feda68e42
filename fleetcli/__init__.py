"""The operator's command `energyfleet`, in four rooms.

    client/       what firmware and back ends would copy: channels, both services' clients, the uplink of readings;
                  it stands alone and imports neither of the other rooms
    simulation/   a fleet of chargers with its ground truth, and comparing the services' answers with that
    authority/    certificates: what they name, signing them, the files they lie in, and the deny-list
    commands/     a file for each command or two, and what they share: options, output, starting everything

`__main__` puts the commands together and imports only the one that runs.
"""

import shared as _shared  # noqa: F401  # before gRPC, whose log it silences
