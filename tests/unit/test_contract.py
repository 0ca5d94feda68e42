"""The contract and its stubs."""

import subprocess
import sys
from pathlib import Path

from energyfleet.v1.telemetry_pb2 import Telemetry
from google.protobuf import json_format

ROOT = Path(__file__).parents[2]


def test_the_committed_stubs_are_what_the_protos_say(tmp_path: Path) -> None:
    protos = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos").rglob("*.proto"))
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", *outputs, *protos], cwd=ROOT, check=True)

    generated = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.py")}
    committed = {
        path.relative_to(ROOT / "shared/gen"): path.read_text() for path in (ROOT / "shared/gen").rglob("*.py")
    }
    assert generated == committed


def test_the_json_of_the_prototype_is_the_json_of_the_contract() -> None:
    meter = {"meterId": "meter-001", "kwhConsumedAc": 1.5, "voltage": 230.0, "timestamp": "2026-02-09T10:00:00Z"}
    vehicle = {
        "vehicleId": "vehicle-001",
        "soc": 50.0,
        "kwhDeliveredDc": 1.35,
        "batteryTemp": 25.0,
        "timestamp": "2026-02-09T10:00:00Z",
    }
    for reading in ({"meter": meter}, {"vehicle": vehicle}):
        assert json_format.MessageToDict(json_format.ParseDict(reading, Telemetry())) == reading
