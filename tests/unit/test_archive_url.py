"""Where the archive is, and what of it may be written down."""

import pytest

from shared.archive.archive_errors import BadArchiveUrl
from shared.archive.archive_url import archive_url
from shared.config import ConfigError, IngestionSettings, read_settings


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/var/archive/", "file:///var/archive"),
        ("file:///var/archive", "file:///var/archive"),
        ("s3://bucket/fleet/", "s3://bucket/fleet"),
        ("s3://bucket?region=eu-central-1", "s3://bucket"),
        ("gs://anonymous@bucket/fleet", "gs://anonymous@bucket/fleet"),
    ],
)
def test_a_place_is_shown_without_how_it_is_reached(text: str, shown: str) -> None:
    assert str(archive_url(text)) == shown


def test_a_relative_path_is_the_same_place_wherever_a_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/var")
    assert str(archive_url("archive")) == "file:///var/archive"


@pytest.mark.parametrize(
    "text",
    [
        "s3://key:hidden@bucket/fleet",
        "s3://hidden@bucket/fleet",
        "s3://bucket/fleet?secret_key=hidden",
        "s3://bucket/fleet?session_token=hidden",
        "ftp://hidden/fleet",
        "s3://?hidden",
        "file://hidden/fleet",
        "s3://[hidden",
    ],
)
def test_what_is_no_place_or_has_a_secret_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    with pytest.raises(BadArchiveUrl) as refused:
        archive_url(text)
    assert "hidden" not in str(refused.value)
    monkeypatch.setenv("ENERGYFLEET_ARCHIVE_URL", text)
    with pytest.raises(ConfigError, match="ENERGYFLEET_ARCHIVE_URL: ") as stopped:
        read_settings(IngestionSettings)
    assert "hidden" not in str(stopped.value)
