"""A wrong variable stops the start and is named."""

import pytest
from psycopg.conninfo import conninfo_to_dict

from shared.config import AnalyticsSettings, ConfigError, IngestionSettings, Settings, read_settings
from shared.power_limits import PowerLimits


@pytest.mark.parametrize(
    ("kind", "name", "value", "told"),
    [
        (IngestionSettings, "BATCH_MAX_READINGS", "many", "ENERGYFLEET_BATCH_MAX_READINGS: "),
        (IngestionSettings, "WRITERS", "0", "ENERGYFLEET_WRITERS: "),
        (IngestionSettings, "LOG_LEVEL", "LOUD", "ENERGYFLEET_LOG_LEVEL: "),
        (IngestionSettings, "INGESTION_ADDRESS", "0.0.0.0:50051", "ENERGYFLEET_TLS_CERT_FILE"),
        (IngestionSettings, "INGESTION_ADDRESS", "example.com:50051", "ENERGYFLEET_INGESTION_ADDRESS: "),
        (IngestionSettings, "INGESTION_ADDRESS", "[::]:50051", "ENERGYFLEET_INGESTION_ADDRESS: "),
        (IngestionSettings, "INGESTION_ADDRESS", "50051", "not HOST:PORT"),
        (IngestionSettings, "TLS_CERT_FILE", "cert.pem", "go together"),
        (IngestionSettings, "TLS_CLIENT_CA_FILE", "ca.pem", "need ENERGYFLEET_TLS_CERT_FILE"),
        (IngestionSettings, "TLS_DENY_FILE", "denied", "need ENERGYFLEET_TLS_CLIENT_CA_FILE"),
        (IngestionSettings, "TLS_CN_TEMPLATE", "car:{cn}", "expected meter:{cn} or vehicle:{cn}"),
        (AnalyticsSettings, "BACKEND_ADDRESS", "127.0.0.1:0", "need ENERGYFLEET_TLS_CERT_FILE"),
        (AnalyticsSettings, "JWKS_FILE", "keys.json", "go together"),
        (IngestionSettings, "INGESTION_METRICS_ADDRESS", "0.0.0.0:9090", "ENERGYFLEET_INGESTION_METRICS_ADDRESS: "),
        (IngestionSettings, "WORKERS", "0", "ENERGYFLEET_WORKERS: "),
        (IngestionSettings, "SCHEMA", "North", "ENERGYFLEET_SCHEMA: "),
        (IngestionSettings, "SCHEMA", "north,public", "ENERGYFLEET_SCHEMA: "),
        (Settings, "SCHEMA", "n" * 64, "ENERGYFLEET_SCHEMA: "),
        (AnalyticsSettings, "ANALYTICS_METRICS_ADDRESS", "9090", "not HOST:PORT"),
        (AnalyticsSettings, "LOW_EFFICIENCY_BELOW", "85", "ENERGYFLEET_LOW_EFFICIENCY_BELOW: "),
        (AnalyticsSettings, "RETURNED_MAX_SHARE", "1", "ENERGYFLEET_RETURNED_MAX_SHARE: "),
        (AnalyticsSettings, "BASELINE_MIN_KWH", "-1", "ENERGYFLEET_BASELINE_MIN_KWH: "),
        (AnalyticsSettings, "RATIO_DROP_MIN", "0", "ENERGYFLEET_RATIO_DROP_MIN: "),
        (AnalyticsSettings, "RATIO_DROP_MIN", "1", "ENERGYFLEET_RATIO_DROP_MIN: "),
        (AnalyticsSettings, "STALE_AFTER_S", "0", "ENERGYFLEET_STALE_AFTER_S: "),
        (AnalyticsSettings, "SESSION_PAUSE_MINUTES", "0.5", "ENERGYFLEET_SESSION_PAUSE_MINUTES: "),
        (AnalyticsSettings, "STALE_AFTER_S", "inf", "ENERGYFLEET_STALE_AFTER_S: "),
        (AnalyticsSettings, "ANALYTICS_ADDRESS", "0.0.0.0:0", "ENERGYFLEET_ANALYTICS_ADDRESS: "),
    ],
)
def test_a_wrong_value_is_told_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, kind: type[Settings], name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(f"ENERGYFLEET_{name}", value)

    with pytest.raises(ConfigError) as raised:
        read_settings(kind)

    assert told in str(raised.value)


def test_tls_asks_for_certificates_unless_it_is_said_that_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CERT", "KEY"):
        monkeypatch.setenv(f"ENERGYFLEET_TLS_{name}_FILE", f"{name}.pem")
    with pytest.raises(ConfigError, match="ENERGYFLEET_ALLOW_ANONYMOUS=true"):
        read_settings(AnalyticsSettings)

    monkeypatch.setenv("ENERGYFLEET_ALLOW_ANONYMOUS", "true")
    assert read_settings(AnalyticsSettings).allow_anonymous

    monkeypatch.setenv("ENERGYFLEET_TLS_CLIENT_CA_FILE", "ca.pem")
    with pytest.raises(ConfigError, match="contradicts"):
        read_settings(AnalyticsSettings)


def test_every_wrong_value_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENERGYFLEET_WRITERS", "0")
    monkeypatch.setenv("ENERGYFLEET_RETENTION_DAYS", "-1")

    with pytest.raises(ConfigError) as raised:
        read_settings(IngestionSettings)

    assert len(str(raised.value).splitlines()) == 2


def test_an_empty_variable_is_as_if_it_was_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        name: field for kind in (IngestionSettings, AnalyticsSettings) for name, field in kind.model_fields.items()
    }
    for name, field in names.items():
        monkeypatch.setenv(str(field.validation_alias or f"ENERGYFLEET_{name.upper()}"), "")

    for kind in (IngestionSettings, AnalyticsSettings):
        assert read_settings(kind) == kind.model_construct()
    assert read_settings(IngestionSettings).power_limits == PowerLimits()


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:50051", "[::1]:50051", "127.8.8.8:1"])
def test_loopback_needs_no_tls(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("ENERGYFLEET_INGESTION_ADDRESS", address)

    assert read_settings(IngestionSettings).ingestion_address == address


def test_every_interface_is_served_with_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENERGYFLEET_INGESTION_ADDRESS", "0.0.0.0:50051")
    monkeypatch.setenv("ENERGYFLEET_TLS_CERT_FILE", "cert.pem")
    monkeypatch.setenv("ENERGYFLEET_TLS_KEY_FILE", "key.pem")
    monkeypatch.setenv("ENERGYFLEET_TLS_CLIENT_CA_FILE", "ca.pem")

    assert read_settings(IngestionSettings).ingestion_address == "0.0.0.0:50051"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("postgresql://user@host/name", ""),
        ("postgresql://user@host/name?sslmode=require&options=-c%20role%3Dreader", "-c role=reader "),
        ("postgresql:///name?options=-c%20search_path%3Delsewhere&host=/run", "-c search_path=elsewhere "),
    ],
)
def test_every_url_of_the_settings_names_the_schema_last(
    monkeypatch: pytest.MonkeyPatch, url: str, options: str
) -> None:
    monkeypatch.setenv("ENERGYFLEET_DATABASE_URL", url)
    monkeypatch.setenv("ENERGYFLEET_ANALYTICS_DATABASE_URL", url)
    monkeypatch.setenv("ENERGYFLEET_SCHEMA", "north")

    settings = read_settings(AnalyticsSettings)

    for found in (settings.database_url, settings.analytics_database_url, settings.in_schema(url)):
        given = conninfo_to_dict(url) | {"options": f"{options}-c search_path=north,pg_temp"}
        assert conninfo_to_dict(str(found)) == given


def test_days_are_sealed_after_two_whole_days_at_the_soonest_or_never(monkeypatch: pytest.MonkeyPatch) -> None:
    for days in (0, 2, 30):
        monkeypatch.setenv("ENERGYFLEET_SEAL_AFTER_DAYS", str(days))
        assert read_settings(IngestionSettings).seal_after_days == days
    monkeypatch.setenv("ENERGYFLEET_SEAL_AFTER_DAYS", "1")
    with pytest.raises(ConfigError, match="ENERGYFLEET_SEAL_AFTER_DAYS: at least 2, or 0: never"):
        read_settings(IngestionSettings)
