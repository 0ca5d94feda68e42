"""The reference client of both services: needs grpc, protobuf, cryptography and small modules of `shared`, no command.

credentials -> channel -> services   (a method for each rpc, answers put together from their pages)
               channel -> uplink     (`ExchangeTelemetry` as a device needs it: nothing lost, nothing counted twice)
"""
